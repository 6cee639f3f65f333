"""Which run of MLflow is which: its tags are somebody's input, and one that does not fit is named and left aside.

A run is used only where its tags can be read and agree with the plan and with the run's own parameters; `--sync` makes
what is left aside again, from storage.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ablate.storage.plans import TrialPart
from ablate.storage.storage import IDENTITY
from ablate.tracking.agreement import STORAGE
from ablate.tracking.store import VALUE, Run

_WANTED = {
    "plan": ("ablate.plan", "ablate.launched_ms"),
    "trial": ("ablate.row", "ablate.seed", "ablate.training_key"),
    "published": ("ablate.row",),
    "training": ("ablate.training_key",),
}
_MAY_LACK = ("ablate.launched_ms", STORAGE)
"""A plan's own start counts instead; runs of versions before name no storage."""

_FORMS = {
    STORAGE: (IDENTITY, "the id of a storage"),
    "ablate.plan": (re.compile(r"[0-9a-f]{1,64}"), "the id of a plan"),
    "ablate.launched_ms": (re.compile(r"\d{1,15}", re.ASCII), "milliseconds since 1970"),
    "ablate.row": (re.compile(r".+", re.DOTALL), "a row's label"),
    "ablate.seed": (re.compile(r"\d{1,18}", re.ASCII), "a whole number"),
    "ablate.training_key": (re.compile(r"[0-9a-f]{1,64}"), "a training's key"),
}


def misfit(run: Run) -> str | None:
    """Why a run cannot be one of ours, by its tags alone.

    Args:
        run: Of which some tag says that it is ours.

    Returns:
        `expected a whole number in its tag ablate.seed, got 'zero'`; None where every tag that is needed can be read.
    """
    kind = run.tags.get("ablate.kind")
    if kind not in _WANTED:
        return f"expected one of {', '.join(_WANTED)} in its tag ablate.kind, got {_got(kind)}"
    for tag in (*_WANTED[kind], STORAGE):
        form, what = _FORMS[tag]
        value = run.tags.get(tag)
        if value is None and tag in _MAY_LACK:
            continue
        if value is None or not form.fullmatch(value):
            return f"expected {what} in its tag {tag}, got {_got(value)}"
    return mislabelled(run) if kind == "published" else None


def mislabelled(run: Run) -> str | None:
    """Why a run's parameters are not of the row and seed that its tags name; None where they are, or tell neither.

    Args:
        run: Of a trial or a published row.
    """
    for name in ("row", "seed"):
        tag, value = run.tags.get(f"ablate.{name}"), run.params.get(name)
        if tag is not None and value is not None and value != tag[:VALUE]:
            return f"expected its parameter {name} as its tag ablate.{name}, got {_got(value)} and {_got(tag)}"
    return None


def nobodys(run: Run) -> bool:
    """Whether a run's tag names what can be no storage: it is shown with none, and taken from none."""
    return STORAGE in run.tags and not IDENTITY.fullmatch(run.tags[STORAGE])


def stray(run: Run, plan: str) -> str | None:
    """Why a run that names a plan's run is none of the plan's: its tag names another plan, or none.

    Args:
        run: Which says that it belongs to the plan's run.
        plan: The plan's id.

    Returns:
        A sentence; None where it is the plan's.
    """
    named = run.tags.get("ablate.plan")
    return None if named == plan else f"expected {plan!r} in its tag ablate.plan, got {_got(named)}"


def _got(value: str | None) -> str:
    return "none" if value is None else repr(value[:80])


def contradiction(run: Run, trial: TrialPart, trials: Iterable[TrialPart]) -> str | None:
    """Why a run cannot be of the trial that its tags name: its key or its parameters are another one's.

    Args:
        run: Of a trial, without a misfit.
        trial: Of the plan, with the run's row and seed.
        trials: All of the plan.

    Returns:
        A sentence; None where they agree.
    """
    key = run.tags.get("ablate.training_key")
    if key != trial.training:
        return f"expected {trial.training!r} in its tag ablate.training_key, got {key!r}"
    if _fits(run, trial):
        return None
    # Launches of one plan may differ in settings without effect: only what is another trial's contradicts.
    other = next((each for each in trials if each.space == trial.space and _fits(run, each)), None)
    return None if other is None else f"its parameters are those of {other.row}, seed {other.seed}"


def _fits(run: Run, trial: TrialPart) -> bool:
    wanted = {"row": trial.row, **flat(trial.spec)}
    return all(value == wanted[name][:VALUE] for name, value in run.params.items() if name in wanted)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted path, as text.

    Args:
        settings: As of `TrialSpec.model_dump`.
        prefix: Before each path.

    Returns:
        Path -> value; lists as JSON, none as `none`.
    """
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            plain = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
            found[f"{prefix}{name}"] = plain
    return found
