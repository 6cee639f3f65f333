"""A space file -> a checked space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

from ablate.core.errors import SpecError, nearest
from ablate.core.metric_names import refused
from ablate.core.places import local_path
from ablate.spaces import presets
from ablate.spaces.settings import build_spec
from ablate.spaces.space import NAME, SECTIONS, PresetFile, Space, SpaceFile
from ablate.spaces.trials import settings_of
from ablate.spaces.yamlfile import YamlFile


def tables(loaded: Iterable[SpaceFile]) -> list[SpaceFile]:
    """Those spaces that have rows, by table; of the shipped ones, what `all` means. A search is launched on its own."""
    with_rows = [each for each in loaded if each.space.search is None]
    return sorted(with_rows, key=lambda each: (each.space.table or math.inf, each.name))


def table_names() -> list[str]:
    """Names of the shipped spaces that have rows, by table."""
    return [each.name for each in tables(map(load_space, presets.space_names()))]


def load_space(name_or_path: str, load_preset: Callable[[str], PresetFile] = presets.load_preset) -> SpaceFile:
    """A space by its name or by its file's path.

    Args:
        name_or_path: `batch_size`, or the path of a `.yaml` file of the user's own.
        load_preset: What loads the presets that a search is checked under; a launch has loaded its own already.

    Raises:
        SpecError: No such space, or a file that is refused, with file, line and the nearest valid name.
    """
    if name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path:
        path = local_path(name_or_path, "--space")
        if not _is_file(path):
            hint = f"; did you mean {path.stem!r}?" if path.stem in presets.space_names() else ""
            raise SpecError(
                f"--space: expected a space's name or the path of its file, got no file {name_or_path!r}{hint}"
            )
    else:
        path = presets.folder() / f"{name_or_path}.yaml"
        if not _is_file(path):
            hint = nearest(name_or_path, [*presets.space_names(), "all"])
            raise SpecError(f"--space: expected a space's name or a path, got {name_or_path!r}; {hint}")
    if not NAME.fullmatch(path.stem):
        raise SpecError(
            f"{path}: expected a file name of small letters, digits and _ (it names the experiment), got {path.stem!r}"
        )
    file = YamlFile(path)
    _check_labels(file)
    loaded = SpaceFile(path.stem, file.validate(Space), file)
    _place_shorthands(loaded)
    _check_claims(loaded)
    if loaded.space.search is not None:
        from ablate.spaces import trials as trials_module  # which stands on this module

        trials_module.check(loaded, load_preset)
    for number, row in enumerate(loaded.space.rows):  # a mistake shows now, not when its row is launched
        build_spec(settings_of(loaded, row, None), 0, f"{file.where(('rows', number))}: row {row.label!r}")
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
    for section in SECTIONS:
        part = file.data.get(section)
        changed = part.get("rows") if isinstance(part, dict) else None
        made = any(file.data.get(shorthand) for shorthand in ("factors", "grid", "zip"))
        for label in changed if lines and not made and isinstance(changed, dict) else ():
            if label not in lines:
                raise SpecError(
                    f"{file.where((section, 'rows', label))}: {section}.rows: expected a row's label, got {label!r}; "
                    f"{nearest(label, lines)}"
                )


def _place_shorthands(loaded: SpaceFile) -> None:
    """Have every row that a shorthand stands for, and each of its settings, named by the line they come from."""
    made = loaded.space.shorthands()
    first = len(loaded.space.rows) - len(made)
    for number, row in enumerate(made, first):
        loaded.file.stands_for(("rows", number), row.place)
        for path, place in row.places.items():
            loaded.file.stands_for(("rows", number, "set", path), place)


def _check_claims(loaded: SpaceFile) -> None:
    labels = [row.label for row in loaded.space.rows]
    for number, claim in enumerate(loaded.space.claims):
        for problem in claim.problems(labels):
            raise SpecError(f"{loaded.file.where(('claims', number))}: claims.{number}: {problem}")
    _check_questions(loaded)
    for use in loaded.metric_uses():
        unusable = refused(use.metric)
        if unusable is not None:
            raise SpecError(f"{loaded.file.where(use.place)}: {use.path}: {unusable}")


def _check_questions(loaded: SpaceFile) -> None:
    """A question that one source alone answers is mistyped, or nobody's rival."""
    sources: dict[str, set[str | None]] = {}
    for claim in loaded.space.claims:
        if claim.question is not None:
            sources.setdefault(claim.question, set()).add(claim.source)
    for number, claim in enumerate(loaded.space.claims):
        if claim.question is not None and len(sources[claim.question]) < 2:
            others = [question for question in sources if question != claim.question]
            raise SpecError(
                f"{loaded.file.where(('claims', number, 'question'))}: claims.{number}.question: expected a question "
                f"that claims of two sources answer, got {claim.question!r} of {claim.source!r} alone"
                + (f"; {nearest(claim.question, others)}" if others else "")
            )
