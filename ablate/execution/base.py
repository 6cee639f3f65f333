"""What a training tells its launch while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ablate.spaces.specs import PlannedMeasurement, TrialSpec

Kind = Literal["started", "epoch", "measuring", "measured", "finished", "failed", "interrupted", "stopped"]


@dataclass(frozen=True)
class Event:
    """One step of one training.

    Args:
        key: The training's key.
        kind: What happened. `started` says from which epoch on; `measuring` and `measured` count measurements;
            `stopped` says after which epoch a search stopped it early; `interrupted`, that the same command goes on.
        done: Epochs or measurements done.
        total: Of how many.
        metrics: Of the epoch, e.g. `train/loss`, `train/accuracy_attack` (percent), `images_per_second`.
        text: What is measured, or why it failed or was interrupted, or a warning.
        timestamp_ms: When, milliseconds since 1970.
    """

    key: str
    kind: Kind
    done: int = 0
    total: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    text: str = ""
    timestamp_ms: int = 0


Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Task:
    """What a worker is asked to do.

    Args:
        key: The training's key.
        spec: The trial that trains it.
        measurements: All that hang on it; those with a record are left alone.
        storage: The storage's location.
        threads: CPU threads of this worker; sums depend on it in their last bits.
        device: `cpu`, `cuda` or `cuda:0`.
        gpu_share: The part of a GPU's memory it may use; below 1, running out of it is no failure yet.
        lease: The number of the launch's lease on the training, looked at before training, at every epoch and at every
            measurement; None where nobody else could take it over.
    """

    key: str
    spec: TrialSpec
    measurements: tuple[PlannedMeasurement, ...]
    storage: str
    threads: int
    device: str
    gpu_share: float = 1.0
    lease: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Args:
        key: The training's key.
        state: `interrupted` by what passes, so that the same command goes on (`ablate.execution.faults` says by what).
        reason: One line of why it failed or was interrupted.
        needs_more_memory: It failed only for want of memory in its share.
        lease_lost: Another launch has taken the training over, and may have its results.
    """

    key: str
    state: Literal["finished", "failed", "interrupted"]
    reason: str = ""
    needs_more_memory: bool = False
    lease_lost: bool = False
