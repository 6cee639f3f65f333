"""A training after an epoch, and what ends one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ablate.core.errors import MeasurementError
from ablate.spaces.networks import not_kept


class TrainingError(Exception):
    """A training that cannot go on, e.g. because its loss is no number; the message is the reason."""


@dataclass
class TrainingState:
    """A training after an epoch: all that is needed to go on, and all that was measured so far.

    Every tensor is a copy on the CPU, and all of it loads with `torch.load(weights_only=True)`.

    Attributes:
        epoch: Epochs done; 0 before the first.
        network: Its `state_dict`.
        optimizer: Its `state_dict`.
        history: One entry for each epoch from 0 on: `{"epoch", "timestamp_ms", "metrics": {name: float}}`.
        best: `{"epoch", "accuracy", "network"}` of the first epoch with the highest `validation/attack`; None without
            validation images, and before the first epoch.
        keeps: Names of the networks that it was asked to keep beside these, also of those to come.
        averages: Name of `ema` -> what is needed to go on averaging.
        kept: Name -> `{"epoch", "network"}`, of an `ema_best` its `"accuracy"` too; an `ema` comes last of all.
    """

    epoch: int
    network: dict[str, Tensor]
    optimizer: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    keeps: list[str] = field(default_factory=list)
    averages: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)

    def network_of(self, name: str) -> dict[str, Any]:
        """A network that it left, with its epoch.

        Args:
            name: As keys call it: `last`, `best`, `ema:0.999@0`, `epoch:60`.

        Returns:
            `{"epoch", "network"}`.

        Raises:
            MeasurementError: It has none.
        """
        last = {"epoch": self.epoch, "network": self.network}
        found = (
            last if name in ("last", f"epoch:{self.epoch}") else self.best if name == "best" else self.kept.get(name)
        )
        if found is None:
            raise MeasurementError(not_kept(name))
        return found


def copied(value: Any) -> Any:
    """A copy on the CPU, of tensors in dictionaries and lists."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [copied(inner) for inner in value]
    return value
