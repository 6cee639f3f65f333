"""What a plan does that is probably not meant: told before anything is trained, and refused by nobody."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING

from ablate.core.text import listed, plural, printable
from ablate.spaces.conditions import inactive_beside
from ablate.spaces.yamlfile import flatten

if TYPE_CHECKING:
    from ablate.planning.plan import Plan, PlannedTrial
    from ablate.spaces.claims import Use
    from ablate.spaces.space import SpaceFile, Trial

_EPS = ("training.attack.eps_255", "training.attack.step_255", "measurement.eps_255", "measurement.step_255")
_ROWS_SHOWN = 4
_LEAST_STEP_255 = 0.1
"""Below this a step is no step; a radius is one from a grey level on."""


def cautions(plan: Plan) -> list[str]:
    """What in a plan is probably a mistake.

    Args:
        plan: Of tables or of a search's samples.

    Returns:
        One sentence each, in the order of the spaces; empty where nothing is odd.
    """
    found: list[str] = []
    for loaded in plan.spaces:
        of_space = [planned for planned in plan.trials if planned.trial.space == loaded.name]
        trials = [planned.trial for planned in of_space]
        if not plan.search:
            found += _overridden(loaded, trials, plan.preset.preset.section)
            found += _same(trials)
            found += _not_measured(loaded, of_space)
        found += _inert(trials, str(plan.preset.file.path))
        found += _small_ranges(loaded)
        found += _small(trials, () if loaded.space.search is None else loaded.space.search.parameters)
        found += _passed_over(of_space)
    return list(dict.fromkeys(found))


def _overridden(loaded: SpaceFile, trials: list[Trial], section: str | None) -> Iterator[str]:
    varied = {path for row in loaded.space.rows for path, _ in flatten(row.set)}
    changes = loaded.part(section).rows
    varied |= {path for change in changes.values() for path, _ in flatten(change.set)}
    given = {setting.path: setting for trial in trials for setting in trial.settings if setting.origin[:6] == "--set "}
    for path, setting in given.items():
        if any(_overlap(path, other) for other in varied) and len(loaded.space.rows) > 1:
            yield (
                f"{printable(setting.origin)} overrides what the rows of {loaded.name} vary ({path}): every row gets "
                "this value, whatever its label says"
            )


def _overlap(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")


def _same(trials: list[Trial]) -> Iterator[str]:
    first: dict[str, str] = {}
    for trial in trials:
        content = trial.spec.model_dump_json()
        other = first.setdefault(content, trial.label)
        if other != trial.label:
            yield (
                f"rows {printable(other)!r} and {printable(trial.label)!r} of {trial.space} have the same settings: "
                "their numbers will be equal, and say nothing of a difference"
            )


def _not_measured(loaded: SpaceFile, planned: list[PlannedTrial]) -> Iterator[str]:
    """What claims and published numbers are about, and this launch gives no number of."""
    from ablate.planning.metrics import measured  # brings torch, which a plan has brought

    labels = list(dict.fromkeys(each.trial.label for each in planned))
    lacking: dict[str, dict[str, Use]] = {}  # metric -> row -> where it is named
    for use in loaded.metric_uses():
        for label in use.rows:
            of_row = [each for each in planned if each.trial.label == label]
            if of_row and not any(measured(each.trial.spec, each.columns, use) for each in of_row):
                lacking.setdefault(use.metric, {}).setdefault(label, use)
    together: dict[tuple[str, ...], list[str]] = {}
    for metric, named in lacking.items():
        together.setdefault(tuple(named), []).append(metric)
    for rows, metrics in together.items():
        first = lacking[metrics[0]][rows[0]]
        names = ", ".join(printable(metric) for metric in metrics)
        of_rows = "" if len(rows) == len(labels) else f" of {_listed(rows)}"
        stays = "it stays blank" if len(metrics) == 1 else "they stay blank"
        yield (
            f"{loaded.file.where(first.place)}: {names}{of_rows}, named by claims or published numbers, "
            f"will not be measured: {stays} in ours"
        )


def _inert(trials: list[Trial], passed_over: str) -> Iterator[str]:
    """Settings that change nothing in any trial for which they were written; presets are written for all spaces."""
    written: dict[tuple[str, str], set[str | None]] = {}
    for trial in trials:
        last = {setting.path: setting for setting in trial.settings}
        for path, setting in last.items():
            written.setdefault((path, setting.origin), set()).add(inactive_beside(trial.spec, path))
    for (path, origin), beside in written.items():
        if None not in beside and not origin.startswith(f"{passed_over}:"):
            yield f"{printable(origin)}: {path} has no effect beside {' and '.join(sorted(filter(None, beside)))}"


def _listed(rows: tuple[str, ...]) -> str:
    return listed([repr(printable(row)) for row in rows], _ROWS_SHOWN)


def _passed_over(planned: list[PlannedTrial]) -> Iterator[str]:
    for each in planned:
        files = each.data.passed_over
        if files:
            yield (
                f"{each.trial.where('data.root')}: data.root: {plural(len(files), 'image')} passed over, whose "
                f"{'name does' if len(files) == 1 else 'names do'} not end like an image's "
                f"({listed([printable(file) for file in files], 2)})"
            )


def _small_ranges(loaded: SpaceFile) -> Iterator[str]:
    parameters = {} if loaded.space.search is None else loaded.space.search.parameters
    for path in _EPS:
        extremes = parameters[path].extremes() if path in parameters else []
        numbers = [float(value) for value in extremes if isinstance(value, int | float)]
        values = [value for value in numbers if _is_small(path, value)]
        if values:
            where = loaded.file.where(("search", "parameters", path))
            meant = ", ".join(_in_255(value) for value in values)
            got = ", ".join(f"{value:g}" for value in values)
            yield f"{where}: {path}: {got} of what is searched is below one grey level, in 1/255: did you mean {meant}?"


def _is_small(path: str, value: float) -> bool:
    return 0 < value < (1 if path.endswith(".eps_255") else _LEAST_STEP_255)


def _in_255(value: float) -> str:
    return f"{round(value * 255):g}"


def _small(trials: list[Trial], searched: Container[str]) -> Iterator[str]:
    for trial in trials:
        for path in _EPS:
            if path in searched:
                continue  # told once, of its range
            group, _, name = path.rpartition(".")
            owner = trial.spec.training.attack if group == "training.attack" else trial.spec.measurement
            value = float(getattr(owner, name))
            if _is_small(path, value):
                meant = _in_255(value)
                yield f"{trial.where(path)}: {path}: {value:g} is below one grey level, in 1/255: did you mean {meant}?"
