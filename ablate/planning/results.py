"""What a plan has come to, from storage alone: numbers and trained networks, for scripts and for notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ablate.core.errors import SpecError, StorageError, nearest
from ablate.learning.models import build_network
from ablate.planning.plan import Plan, PlannedTrial
from ablate.spaces.metrics import Network, scalar_of
from ablate.storage.checkpoints import load_state
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
            for scalar, value in (record.scalars if record else {}).items():
                metrics[scalar_of(name, scalar).run_name] = value
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


def trained_network(plan: Plan, storage: Storage, row: str, seed: int, which: Network = "last") -> nn.Module:
    """The network of a row as its measurements saw it.

    Args:
        plan: With the row.
        storage: Where it was trained.
        row: The row's label.
        seed: One of the plan's.
        which: `last`, or the `best` on the images held out for validation.

    Returns:
        In evaluation mode, float32, on the CPU; [N, 3, H, W] float in [0, 1] -> [N, classes] logits.

    Raises:
        SpecError: No such row or seed, or no `best` one without `data.validation`.
        StorageError: It is not trained to its end, or its checkpoints were dropped.
    """
    if which not in ("last", "best"):
        raise SpecError(f"which: expected 'last' or 'best', got {which!r}")
    planned = _planned(plan, row, seed)
    spec = planned.trial.spec
    if which == "best" and spec.data.validation == 0:
        raise SpecError("which: expected data.validation above 0 for the best network, got 0; the last one is there")
    view = storage.view(planned.training)
    if not view.finished:
        got = f"epoch {view.epoch} of {spec.training.epochs}" if view.epoch >= 0 else "none"
        raise StorageError(f"expected a finished training of {row}, seed {seed}, got {got}; run the plan first")
    content, damaged = storage.checkpoint(planned.training)
    state = load_state(content) if content is not None else None
    if state is None or state["epoch"] < spec.training.epochs:
        got = damaged[0] if damaged else "none left; a launch that prunes drops them"
        raise StorageError(f"expected the last checkpoint of {row}, seed {seed}, got {got}")
    chosen = state["network"] if which == "last" or state["best"] is None else state["best"]["network"]
    network = build_network(spec.model, planned.data.classes, spec.data.image_size, spec.seed)
    network.load_state_dict(chosen)
    return network.eval()


def _planned(plan: Plan, row: str, seed: int) -> PlannedTrial:
    rows = [planned for planned in plan.trials if planned.trial.label == row]
    if not rows:
        labels = [planned.trial.label for planned in plan.trials]
        raise SpecError(f"row: expected the label of a row, got {row!r}; {nearest(str(row), set(labels))}")
    for planned in rows:
        if planned.trial.seed == seed:
            return planned
    seeds = ", ".join(str(planned.trial.seed) for planned in rows)
    raise SpecError(f"seed: expected a seed of the plan ({seeds}), got {seed!r}")
