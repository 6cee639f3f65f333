"""A space file -> rows -> trials: what is asked for, before anything is planned."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from ablate.claims import Claim, Use
from ablate.errors import SpecError, nearest
from ablate.figures import analyses_for, figure_kind
from ablate.metric_names import refused
from ablate.places import local_path
from ablate.search_space import SearchSpec
from ablate.settings import Setting, build_spec, parse_overrides, setting_paths
from ablate.specs import Spec, TrialSpec
from ablate.yamlfile import YamlFile, flatten

__all__ = [  # settings are part of what a space is made of: one import gives both
    "Preset",
    "Row",
    "Setting",
    "Space",
    "SpaceFile",
    "Trial",
    "build_spec",
    "expand",
    "folder",
    "load_preset",
    "load_space",
    "parse_overrides",
    "preset_names",
    "setting_paths",
    "space_names",
]

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""What a space's name may be: it becomes an experiment's name and part of paths."""


def _known_figure(name: str) -> str:
    try:
        return figure_kind(name).name
    except SpecError as error:
        raise ValueError(str(error)) from error


FigureName = Annotated[str, AfterValidator(_known_figure)]


class Row(Spec):
    """One line of a table: its label, what makes it, and what was published."""

    label: str = Field(min_length=1, max_length=80)
    set: dict[str, Any] = {}
    published: dict[str, float] = {}
    note: str | None = None


class RowChange(Spec):
    """What a preset changes in one row."""

    set: dict[str, Any] = {}
    note: str | None = None


class PresetPart(Spec):
    """What a space changes under a preset, where its rows would otherwise say nothing."""

    set: dict[str, Any] = {}
    rows: dict[str, RowChange] = {}
    search: dict[str, Any] = Field({}, description="What of `search` is other; parameters are replaced one by one.")


class Space(Spec):
    """One ablation, or one search: the content of a file in `search_spaces/`."""

    title: str = Field(min_length=1)
    description: str = ""
    table: int | None = None
    base: dict[str, Any] = {}
    rows: list[Row] = []
    search: SearchSpec | None = None
    claims: list[Claim] = []
    figures: list[FigureName] = []
    smoke: PresetPart = PresetPart()

    @model_validator(mode="after")
    def _rows_or_search(self) -> Self:
        if bool(self.rows) == (self.search is not None):
            raise ValueError(f"expected either rows or search, got {'both' if self.rows else 'neither'}")
        about_rows = [name for name in ("claims", "figures", "table") if self.search and getattr(self, name)]
        if about_rows:
            raise ValueError(f"expected no {about_rows[0]} beside search, which has no rows that they could be about")
        if self.smoke.search and self.search is None:
            raise ValueError("expected no smoke.search without search")
        return self

    @model_validator(mode="after")
    def _labels_once(self) -> Self:
        labels = [row.label for row in self.rows]
        for number, label in enumerate(labels):
            if label in labels[:number]:
                raise ValueError(f"expected each row's label once, got {label!r} twice")
        for label in self.smoke.rows:
            if label not in labels:
                raise ValueError(f"expected a row's label in smoke.rows, got {label!r}; {nearest(label, labels)}")
        return self


class Preset(Spec):
    """A named set of settings that stands between a space and the command line."""

    description: str = ""
    set: dict[str, Any] = {}


@dataclass(frozen=True)
class SpaceFile:
    """A loaded space with the file it came from."""

    name: str
    space: Space
    file: YamlFile

    def metric_uses(self) -> Iterator[Use]:
        """Every place that names a metric, in published numbers and in claims."""
        for number, row in enumerate(self.space.rows):
            for metric in row.published:
                yield Use(metric, ("rows", number, "published", metric), (row.label,))
        labels = [row.label for row in self.space.rows]
        for number, claim in enumerate(self.space.claims):
            yield from claim.metric_uses(number, labels)


@dataclass(frozen=True)
class Trial:
    """One row with one seed, as asked for."""

    space: str
    label: str
    spec: TrialSpec
    published: Mapping[str, float]
    note: str | None
    settings: tuple[Setting, ...]
    origin: str

    def where(self, path: str) -> str:
        """Where a setting of this trial was written: the last place that set it, or the row."""
        places = [setting.origin for setting in self.settings if setting.path == path]
        return places[-1] if places else self.origin

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return self.spec.seed


def folder() -> Path:
    """Where the shipped space files lie: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "search_spaces", package.parent / "search_spaces"):
        if candidate.is_dir():
            return candidate
    raise SpecError(f"expected the folder search_spaces inside or beside {package}, got neither; install ablate again")


def space_names() -> list[str]:
    """Names of the shipped spaces."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def table_names() -> list[str]:
    """Names of the shipped spaces that have rows, by table: what `all` means; a search is launched on its own."""
    loaded = {name: load_space(name).space for name in space_names()}
    tables = [name for name, space in loaded.items() if space.search is None]
    return sorted(tables, key=lambda name: (loaded[name].table or math.inf, name))


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in (folder() / "presets").glob("*.yaml"))


def load_space(name_or_path: str) -> SpaceFile:
    """A space by its name or by its file's path.

    Args:
        name_or_path: `batch_size`, or the path of a `.yaml` file of the user's own.

    Returns:
        The validated space.

    Raises:
        SpecError: No such space, or a file that is refused, with file, line and the nearest valid name.
    """
    if name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path:
        path = local_path(name_or_path, "--space")
        if not _is_file(path):
            raise SpecError(f"--space: expected a space's name or the path of its file, got no file {name_or_path!r}")
    else:
        path = folder() / f"{name_or_path}.yaml"
        if not _is_file(path):
            hint = nearest(name_or_path, [*space_names(), "all"])
            raise SpecError(f"--space: expected a space's name or a path, got {name_or_path!r}; {hint}")
    if not NAME.fullmatch(path.stem):
        raise SpecError(
            f"{path}: expected a file name of small letters, digits and _ (it names the experiment), got {path.stem!r}"
        )
    file = YamlFile(path)
    _check_labels(file)
    loaded = SpaceFile(path.stem, file.validate(Space), file)
    _check_claims(loaded)
    if loaded.space.search is not None:
        from ablate import samples  # which stands on this module

        samples.check(loaded)
    for number, row in enumerate(loaded.space.rows):  # a mistake shows now, not when its row is launched
        build_spec(_settings_of(loaded, row, None), 0, f"{file.where(('rows', number))}: row {row.label!r}")
    return loaded


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be entered
        return False


def _check_labels(file: YamlFile) -> None:
    """Refuse labels that clash or are unknown by their own lines, which the model, knowing no lines, cannot name."""
    rows = file.data.get("rows")
    lines: dict[str, str] = {}
    for number, row in enumerate(rows if isinstance(rows, list) else []):
        label = row.get("label") if isinstance(row, dict) else None
        if isinstance(label, str):
            where = file.where(("rows", number, "label"))
            if label in lines:
                raise SpecError(
                    f"{where}: rows.{number}.label: expected each row's label once, got {label!r} again "
                    f"(first on line {lines[label].rsplit(':', 1)[-1]})"
                )
            lines[label] = where
    smoke = file.data.get("smoke")
    changed = smoke.get("rows") if isinstance(smoke, dict) else None
    for label in changed if lines and isinstance(changed, dict) else ():
        if label not in lines:
            raise SpecError(
                f"{file.where(('smoke', 'rows', label))}: smoke.rows: expected a row's label, got {label!r}; "
                f"{nearest(label, lines)}"
            )


def _check_claims(loaded: SpaceFile) -> None:
    labels = [row.label for row in loaded.space.rows]
    for number, claim in enumerate(loaded.space.claims):
        for problem in claim.problems(labels):
            raise SpecError(f"{loaded.file.where(('claims', number))}: claims.{number}: {problem}")
    for use in loaded.metric_uses():
        unusable = refused(use.metric)
        if unusable is not None:
            raise SpecError(f"{loaded.file.where(use.place)}: {use.path}: {unusable}")


def load_preset(name: str) -> tuple[Preset, YamlFile]:
    """A preset by its name.

    Args:
        name: `paper` or `smoke`.

    Returns:
        The preset and its file.

    Raises:
        SpecError: No such preset, or a file that is refused.
    """
    path = folder() / "presets" / f"{name}.yaml"
    if name not in preset_names():
        raise SpecError(f"--preset: expected a preset's name, got {name!r}; {nearest(name, preset_names())}")
    file = YamlFile(path)
    return file.validate(Preset), file


def settings_from_file(settings: Mapping[str, Any], file: YamlFile, place: tuple[str | int, ...]) -> list[Setting]:
    """Settings of a mapping in a file, each with the line it stands on."""
    found = []
    for key, value in settings.items():
        origin = file.where((*place, key))
        found += [Setting(leaf, inner, origin) for leaf, inner in flatten({key: value})]
    return found


def _settings_of(loaded: SpaceFile, row: Row, preset: str | None) -> list[Setting]:
    space, file = loaded.space, loaded.file
    number = space.rows.index(row)
    settings = settings_from_file(space.base, file, ("base",))
    settings += settings_from_file(row.set, file, ("rows", number, "set"))
    if preset is not None:
        content, preset_file = load_preset(preset)
        settings += settings_from_file(content.set, preset_file, ("set",))
        if preset == "smoke":
            settings += settings_from_file(space.smoke.set, file, ("smoke", "set"))
            change = space.smoke.rows.get(row.label, RowChange())
            settings += settings_from_file(change.set, file, ("smoke", "rows", row.label, "set"))
    return settings


def expand(loaded: SpaceFile, preset: str, overrides: Sequence[Setting], seeds: Sequence[int]) -> list[Trial]:
    """All trials of a space: every row with every seed.

    Args:
        loaded: The space.
        preset: Name of the preset.
        overrides: From `parse_overrides`.
        seeds: Distinct whole numbers.

    Returns:
        Row by row, seed by seed; none of a search, whose samples `ablate.samples` makes.

    Raises:
        SpecError: With the origin and dotted path of what is wrong.
    """
    trials = []
    for number, row in enumerate(loaded.space.rows):
        settings = [*_settings_of(loaded, row, preset), *overrides]
        change = loaded.space.smoke.rows.get(row.label, RowChange()) if preset == "smoke" else RowChange()
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
