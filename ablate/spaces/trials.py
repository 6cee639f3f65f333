"""Samples of a search: one configuration each, which makes a trial as a table's row does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from ablate.core.errors import SpecError
from ablate.spaces.figures import analyses_for
from ablate.spaces.presets import preset_names
from ablate.spaces.search import SearchSpec
from ablate.spaces.settings import Setting, build_spec, format_value
from ablate.spaces.space import PresetFile, Row, RowChange, SpaceFile, Trial
from ablate.spaces.specs import TrialSpec
from ablate.spaces.yamlfile import YamlFile, explain, flatten


@dataclass(frozen=True)
class Sample:
    """One configuration.

    Args:
        number: From 0, in the order in which they were asked for.
        values: Dotted path -> value, of the parameters that are searched in it.
    """

    number: int
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What its row is called."""
        return f"sample {self.number}"

    @property
    def note(self) -> str:
        """Its settings in words, shortened to what a table's footnote takes."""
        return ", ".join(f"{path.rpartition('.')[2]} {format_value(value)}" for path, value in self.values.items())


@dataclass(frozen=True)
class ConfiguredSearch:
    """A search as a launch asked for it: with its preset and the settings of the command line.

    Args:
        file: The space.
        search: What is left to search.
        before: Settings that a sample's values come after.
        after: Settings that win over them.
        seed: Of every training.
    """

    file: SpaceFile
    search: SearchSpec
    before: tuple[Setting, ...]
    after: tuple[Setting, ...]
    seed: int

    def spec(self, values: Mapping[str, Any], what: str = "") -> TrialSpec:
        """The trial of a configuration.

        Args:
            values: Dotted path -> value.
            what: Names it in an error that no single setting caused.

        Raises:
            SpecError: The values do not go together, or nothing is held out to judge by.
        """
        what = what or self.file.file.where(("search",))
        spec = build_spec(self._settings(values), self.seed, what)
        if spec.model.weights is not None:
            where = [setting.origin for setting in (*self.before, *self.after) if setting.path == "model.weights"]
            raise SpecError(
                f"{where[-1] if where else what}: model.weights: expected none in a search, which trains networks, "
                f"got {spec.model.weights!r}"
            )
        if spec.data.validation == 0:
            where = [setting.origin for setting in (*self.before, *self.after) if setting.path == "data.validation"]
            raise SpecError(
                f"{where[-1] if where else what}: data.validation: expected a share above 0 for a search, which is "
                "judged on images held out for validation, got 0"
            )
        return spec

    def trial(self, sample: Sample) -> Trial:
        """A sample as a trial.

        Raises:
            SpecError: As of `spec`.
        """
        origin = self.file.file.where(("search", "parameters"))
        spec = self.spec(sample.values, f"{origin}: {sample.label} ({sample.note})")
        settings = tuple(self._settings(sample.values))
        return Trial(self.file.name, sample.label, spec, {}, sample.note, settings, origin)

    def _settings(self, values: Mapping[str, Any]) -> list[Setting]:
        where = self.file.file.where
        own = [Setting(path, value, where(("search", "parameters", path))) for path, value in values.items()]
        return [*self.before, *own, *self.after]


def configured_search(
    loaded: SpaceFile, preset: PresetFile | None, overrides: Sequence[Setting], seed: int
) -> ConfiguredSearch:
    """A search under a preset and the settings of the command line.

    What a preset or the command line sets is no longer searched. `search.samples=20` and the like change the search
    itself.

    Args:
        loaded: A space with `search`.
        preset: None for the file alone.
        overrides: From `parse_overrides`.
        seed: Of every training.

    Raises:
        SpecError: Something that cannot be used, with its origin.
    """
    space, file = loaded.space, loaded.file
    assert space.search is not None
    own = [setting for setting in overrides if setting.path.split(".")[0] == "search"]
    after = [setting for setting in overrides if setting not in own]
    changes: Mapping[str, Any] = {}
    origin = file.where(("search",))
    if preset is not None:
        of_preset = settings_from_file(preset.preset.set, preset.file, ("set",))
        if preset.preset.section is not None:
            section, part = preset.preset.section, loaded.part(preset.preset.section)
            of_preset += settings_from_file(part.set, file, (section, "set"))
            changes, origin = part.search, file.where((section, "search"))
        after = [*of_preset, *after]
    search = _changed(space.search, changes, origin, own)
    left = search.settled({setting.path: setting.value for setting in after})
    if not left["parameters"]:
        where = file.where(("search",))
        raise SpecError(f"{where}: search: expected something left to search, got every parameter set")
    search = _validated(left, file.where(("search",)))
    before = [*_defaults(preset), *settings_from_file(space.base, file, ("base",))]
    return ConfiguredSearch(loaded, search, tuple(before), tuple(after), seed)


def check(loaded: SpaceFile, load_preset: Callable[[str], PresetFile]) -> None:
    """Refuse a search whose extremes are no valid settings, when it is loaded and not when it has run for a night.

    Args:
        loaded: A space with `search`.
        load_preset: A preset by its name.

    Raises:
        SpecError: With the line of the parameter.
    """
    presets = [load_preset(name) for name in preset_names()]
    for preset in (None, *(each for each in presets if each.preset.section is not None)):
        asked = configured_search(loaded, preset, [], 0)
        for path in asked.search.order():
            needed = _needed(asked.search, path)
            for value in asked.search.parameters[path].extremes():
                asked.spec({**needed, path: value})


def _needed(search: SearchSpec, path: str) -> dict[str, Any]:
    """Values of other parameters under which one is searched."""
    found: dict[str, Any] = {}
    for other, wanted in search.parameters[path].when.items():
        found |= _needed(search, other)
        found[other] = wanted[0] if isinstance(wanted, tuple) else wanted
    return found


def _changed(search: SearchSpec, changes: Mapping[str, Any], origin: str, own: Sequence[Setting]) -> SearchSpec:
    content = search.model_dump(exclude_unset=True)
    if changes:
        parameters = {**content["parameters"], **(changes.get("parameters") or {})}
        content = {**content, **changes, "parameters": parameters}
        content = _validated(content, origin).model_dump(exclude_unset=True)
    for setting in own:
        _, *steps = setting.path.split(".")
        if not steps or steps[0] == "parameters":
            raise SpecError(
                f"{setting.origin}: expected search.samples, search.searcher, search.scheduler and the like, got "
                f"{setting.path!r}; to fix a parameter, set its own path"
            )
        inner = content
        for step in steps[:-1]:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise SpecError(f"{setting.origin}: expected a mapping at {step!r}, got {inner!r}")
        inner[steps[-1]] = setting.value
        content = _validated(content, setting.origin).model_dump(exclude_unset=True)
    return _validated(content, origin)


def _validated(content: Mapping[str, Any], origin: str) -> SearchSpec:
    try:
        return SearchSpec.model_validate(content)
    except ValidationError as error:
        raise SpecError(explain(error, SearchSpec, lambda place: f"{origin}: search")) from error


def settings_from_file(settings: Mapping[str, Any], file: YamlFile, place: tuple[str | int, ...]) -> list[Setting]:
    """Settings of a mapping in a file, each with the line it stands on."""
    found = []
    for key, value in settings.items():
        origin = file.where((*place, key))
        found += [Setting(leaf, inner, origin) for leaf, inner in flatten({key: value})]
    return found


def _defaults(preset: PresetFile | None) -> list[Setting]:
    """What holds under a preset where a space says nothing of it."""
    return settings_from_file(preset.preset.defaults, preset.file, ("defaults",)) if preset is not None else []


def settings_of(loaded: SpaceFile, row: Row, preset: PresetFile | None) -> list[Setting]:
    """What makes a row, without the command line: of the preset's defaults, the space, the row, and what the preset
    sets, the later wins.

    Args:
        loaded: The space.
        row: One of its rows.
        preset: None for the file alone.

    Returns:
        Each setting with the place that it was written in.
    """
    space, file = loaded.space, loaded.file
    number = space.rows.index(row)
    settings = _defaults(preset)
    settings += settings_from_file(space.base, file, ("base",))
    settings += settings_from_file(row.set, file, ("rows", number, "set"))
    if preset is not None:
        settings += settings_from_file(preset.preset.set, preset.file, ("set",))
        section = preset.preset.section
        if section is not None:
            part = loaded.part(section)
            settings += settings_from_file(part.set, file, (section, "set"))
            change = part.rows.get(row.label, RowChange())
            settings += settings_from_file(change.set, file, (section, "rows", row.label, "set"))
    return settings


def expand(loaded: SpaceFile, preset: PresetFile, overrides: Sequence[Setting], seeds: Sequence[int]) -> list[Trial]:
    """All trials of a space: every row with every seed.

    Args:
        loaded: The space.
        preset: Loaded too.
        overrides: From `parse_overrides`.
        seeds: Distinct whole numbers.

    Returns:
        Row by row, seed by seed; none of a search, whose samples `ablate.spaces.trials` makes.

    Raises:
        SpecError: With the origin and dotted path of what is wrong.
    """
    trials = []
    part = loaded.part(preset.preset.section)
    for number, row in enumerate(loaded.space.rows):
        settings = [*settings_of(loaded, row, preset), *overrides]
        change = part.rows.get(row.label, RowChange())
        origin = loaded.file.where(("rows", number))
        for seed in seeds:
            spec = _with_figures(build_spec(settings, seed, f"{origin}: row {row.label!r}"), loaded.space.figures)
            trials.append(
                Trial(loaded.name, row.label, spec, row.published, change.note or row.note, tuple(settings), origin)
            )
    return trials


def _with_figures(spec: TrialSpec, figures: Sequence[str]) -> TrialSpec:
    """The same trial, with what its space's figures are drawn from measured as well."""
    analyses = tuple(dict.fromkeys((*spec.measurement.analyses, *analyses_for(figures))))
    return spec.model_copy(update={"measurement": spec.measurement.model_copy(update={"analyses": analyses})})
