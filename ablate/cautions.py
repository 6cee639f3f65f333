"""What a plan does that is probably not meant: told before anything is trained, and refused by nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ablate.terminal import printable
from ablate.yamlfile import flatten

if TYPE_CHECKING:
    from ablate.planning import Plan
    from ablate.spaces import SpaceFile, Trial

_EPS = ("training.attack.eps_255", "training.attack.step_255", "measurement.eps_255", "measurement.step_255")
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
        trials = [planned.trial for planned in plan.trials if planned.trial.space == loaded.name]
        if not plan.search:
            found += _overridden(loaded, trials, plan.preset)
            found += _same(trials)
        found += _small(trials)
    return list(dict.fromkeys(found))


def _overridden(loaded: SpaceFile, trials: list[Trial], preset: str) -> Iterator[str]:
    varied = {path for row in loaded.space.rows for path, _ in flatten(row.set)}
    if preset == "smoke":
        varied |= {path for change in loaded.space.smoke.rows.values() for path, _ in flatten(change.set)}
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


def _small(trials: list[Trial]) -> Iterator[str]:
    for trial in trials:
        for path in _EPS:
            group, _, name = path.rpartition(".")
            owner = trial.spec.training.attack if group == "training.attack" else trial.spec.measurement
            value = float(getattr(owner, name))
            if 0 < value < (1 if name == "eps_255" else _LEAST_STEP_255):
                meant = f"{round(value * 255):g}"
                yield f"{trial.where(path)}: {path}: {value:g} is below one grey level, in 1/255: did you mean {meant}?"
