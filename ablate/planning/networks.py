"""The networks that a plan has trained, from storage alone: for scripts and for notebooks."""

from __future__ import annotations

from torch import nn

from ablate.core.errors import MeasurementError, SpecError, StorageError, nearest
from ablate.learning.models import build_network
from ablate.learning.state import TrainingState
from ablate.planning.plan import Plan, PlannedTrial
from ablate.spaces.networks import NAMES, Network, needed_for, networks_of
from ablate.storage.checkpoints import load_state
from ablate.storage.storage import Storage


def trained_network(plan: Plan, storage: Storage, row: str, seed: int, which: Network = "last") -> nn.Module:
    """The network of a row as its measurements saw it.

    Args:
        plan: With the row.
        storage: Where it was trained.
        row: The row's label.
        seed: One of the plan's.
        which: `last`, the `best` on the images held out for validation, `ema`, `ema_best` or `epoch:60`.

    Returns:
        In evaluation mode, float32, on the CPU; [N, 3, H, W] float in [0, 1] -> [N, classes] logits.

    Raises:
        SpecError: No such row or seed, or the row asks for no such network.
        StorageError: It is not trained to its end, has not kept the network, or its checkpoints were dropped.
    """
    if NAMES.fullmatch(str(which)) is None:
        raise SpecError(f"which: expected last, best, ema, ema_best or epoch:60, got {which!r}")
    planned = _planned(plan, row, seed)
    spec = planned.trial.spec
    kept = networks_of(spec)
    if which not in kept:
        raise SpecError(f"which: expected {needed_for(which)} for {which}, got none; there are {', '.join(kept)}")
    view = storage.view(planned.training)
    if not view.finished:
        got = f"epoch {view.epoch} of {spec.epochs}" if view.epoch >= 0 else "none"
        raise StorageError(f"expected a finished training of {row}, seed {seed}, got {got}; run the plan first")
    content, damaged = storage.checkpoint(planned.training)
    state = load_state(content) if content is not None else None
    if state is None or state["epoch"] < spec.epochs:
        got = damaged[0] if damaged else "none left; a launch that prunes drops them"
        raise StorageError(f"expected the last checkpoint of {row}, seed {seed}, got {got}")
    try:
        chosen = TrainingState(**state).network_of(kept[which])
    except MeasurementError as error:
        raise StorageError(f"{row}, seed {seed}: {error}") from error
    network = build_network(spec.model, planned.data.classes, spec.data.image_size, spec.seed)
    network.load_state_dict(chosen["network"])
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
