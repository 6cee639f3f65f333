"""What a training tells its launch while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

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
