"""What a plan has come to, from storage alone: for scripts and for notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ablate.planning.plan import Plan
from ablate.storage.storage import Storage, TrainingStatus


def trial_results(plan: Plan, storage: Storage) -> Iterator[dict[str, Any]]:
    """Every trial of a plan with what there is of it.

    Args:
        plan: The plan.
        storage: Where its results are.

    Yields:
        `space`, `row`, `seed`, `training`, `state` (finished, training, stopped, failed or missing), `epoch`, `reason`
        of a failure, and `metrics`: `accuracy/pgd20` and the like in percent, and what analyses found.
    """
    views = {key: storage.view(key) for key in plan.trainings}
    for planned in plan.trials:
        view = views[planned.training]
        metrics: dict[str, float] = {}
        for metric, key in planned.columns.items():
            record = storage.record(view, key)
            if record is not None:
                metrics[metric] = record.scalars["accuracy"]
        for name, key in planned.analyses.items():
            record = storage.record(view, key)
            prefix = "best/" if name.endswith("_best") else ""
            metrics |= {f"{prefix}{scalar}": value for scalar, value in (record.scalars if record else {}).items()}
        status = view.status({*planned.columns.values(), *planned.analyses.values()})
        yield {
            "space": planned.trial.space,
            "row": planned.trial.label,
            "seed": planned.trial.seed,
            "training": planned.training,
            # The JSON has no word of its own for what is trained and lacks measurements: it is under way.
            "state": str(TrainingStatus.TRAINING if status is TrainingStatus.TRAINED else status),
            "epoch": view.epoch,
            "reason": view.reason if status is TrainingStatus.FAILED else None,
            "metrics": metrics,
        }


def results_as_json(plan: Plan, storage: Storage) -> dict[str, Any]:
    """A plan's results as plain data.

    Args:
        plan: The plan.
        storage: Where its results are.

    Returns:
        What `json.dumps` takes: the plan's id and its trials, as of `trial_results`.
    """
    return {
        "id": plan.id,
        "preset": plan.preset,
        "overrides": list(plan.overrides),
        "seeds": list(plan.seeds),
        "trials": list(trial_results(plan, storage)),
    }
