"""What storage holds of a plan, in the form that tables, verdicts and JSON are made from; MLflow is not asked."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate.core.metric_names import OF_LAST_EPOCH
from ablate.report.replications import replications_by_trial
from ablate.report.results import STATES, Curves, Results, State, Trial
from ablate.spaces.metrics import scalar_of
from ablate.spaces.networks import Network
from ablate.storage.plans import PlanFile, SpacePart, TrialPart
from ablate.storage.registrations import checked
from ablate.storage.status import TrainingView, reaches
from ablate.storage.storage import Storage
from ablate.tracking.reading import STOPPED

_DAMAGED = "a file of it in storage is damaged"
_OUTDATED = "{name} is of examples of a network that has been trained anew since; a launch measures it again"


def all_results(plan: PlanFile, storage: Storage, network: Network = "last") -> list[Results]:
    """The results of each space of a plan, in its order; as of `results_of`."""
    views = {key: storage.view(key) for key in plan.trainings()}
    plan = plan.model_copy(update={"spaces": [_as_registered(space, storage) for space in plan.spaces]})
    return [_results(plan.of_space(space.name), storage, views, network) for space in plan.spaces]


def _as_registered(space: SpacePart, storage: Storage) -> SpacePart:
    if space.registration is None:
        return space
    return space.model_copy(update={"registration": checked(space.registration, storage.files)})


def results_of(plan: PlanFile, storage: Storage, network: Network = "last") -> Results:
    """A plan's outcomes so far, and why others are missing.

    Args:
        plan: Of one space.
        storage: Where its trainings are.
        network: Whose numbers.

    Returns:
        Also of a plan that is being launched, here or elsewhere.
    """
    [results] = all_results(plan, storage, network)
    return results


def state_of(part: TrialPart, view: TrainingView, *, of_search: bool) -> tuple[State, str | None]:
    """How far a trial is, and why it failed.

    Args:
        part: What was planned.
        view: What storage holds of its training.
        of_search: Whether it is of a search, which stops some early.
    """
    state = STATES[view.status(part.required, to_the_end=not of_search)]
    reason = view.reason if state == "failed" else part.never_measured(view) if state == "training" else None
    state = state if reason is None else "failed"
    if state == "missing" and view.attempts:
        state = "training"  # begun, and no epoch is stored yet
    return state, reason


def live_state(state: str, held: bool) -> str:
    """The same as a person asks for it.

    Args:
        state: As of `state_of`.
        held: Whether a living launch holds the training.

    Returns:
        What has begun is `training` or `interrupted`, what has not `training` or `waiting`; else the state.
    """
    if state not in ("training", "missing"):
        return state
    return "training" if held else "interrupted" if state == "training" else "waiting"


def _results(plan: PlanFile, storage: Storage, views: dict[str, TrainingView], network: Network) -> Results:
    @functools.cache
    def history(key: str) -> list[dict[str, Any]]:
        return storage.history(key)

    trials = {}
    for part in plan.trials:
        view = views[part.training]
        metrics, left_out, device = _metrics(storage, view, part)
        state, reason = state_of(part, view, of_search=plan.space(part.space).search is not None)
        if state == "finished" and not reaches(history(part.training), view.epoch):
            left_out = _DAMAGED
        last = history(part.training)[-1]["metrics"] if view.finished and history(part.training) else {}
        trials[part.row, part.seed] = Trial(
            part,
            state,
            metrics,
            {name: value for name, value in last.items() if name.startswith(OF_LAST_EPOCH) and math.isfinite(value)},
            _problem(state, view, reason, left_out),
            reason,
            tuple(part.lacking(view)) if state == "failed" else (),
            view.finished,
            view.epoch,
            Curves(
                lambda metric, key=part.training: [  # type: ignore[misc]
                    (int(entry["epoch"]), float(entry["metrics"][metric]))
                    for entry in history(key)
                    if metric in entry["metrics"]
                ]
            ),
            functools.partial(_correct, storage, view, part),
            functools.partial(_arrays, storage, view, part),
            device,
        )
    return replace(Results.of_plan(plan, trials, network), replications=replications_by_trial(storage, plan.trials))


def _metrics(storage: Storage, view: TrainingView, part: TrialPart) -> tuple[dict[str, float], str | None, str]:
    """What was measured, why a record that is there cannot be read, and on what device it was made."""
    metrics: dict[str, float] = {}
    left_out, device = None, ""
    named = [(name, key, False) for name, key in part.columns.items()]
    named += [(label, key, True) for label, key in part.analyses.items()]
    for name, key, is_analysis in named:
        record = storage.record(view, key)
        if record is None:
            if key in view.records:
                left_out = _DAMAGED if storage.stored_record(view, key) is None else _OUTDATED.format(name=name)
        elif is_analysis:
            metrics |= {scalar_of(name, scalar).run_name: value for scalar, value in record.scalars.items()}
        else:
            metrics[name] = record.scalars["accuracy"]
        device = device or str(record.meta.get("device", "") if record is not None else "")
    return metrics, left_out, device


def _problem(state: State, view: TrainingView, reason: str | None, left_out: str | None) -> str | None:
    if state == "finished":
        return left_out and f"left out: {left_out}"
    if state == "failed":
        return f"failed: {reason}"
    if state == "stopped":
        return f"{STOPPED} after epoch {view.stopped}"
    if state == "missing":
        return "not trained"
    return "not finished, measuring" if view.finished else "not finished, training"


def _correct(storage: Storage, view: TrainingView, part: TrialPart) -> dict[str, NDArray[np.bool_]]:
    found = {name: storage.record(view, key) for name, key in part.columns.items()}
    return {name: record.arrays["correct"] for name, record in found.items() if record and "correct" in record.arrays}


def _arrays(storage: Storage, view: TrainingView, part: TrialPart) -> dict[str, NDArray[Any]]:
    found = {label: storage.record(view, key) for label, key in part.analyses.items()}
    return {f"{label}/{name}": a for label, record in found.items() if record for name, a in record.arrays.items()}
