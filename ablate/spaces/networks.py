"""The networks that a training leaves: of the last epoch, the best one, averages of weights, and other epochs'.

A row calls them `last`, `best`, `ema`, `ema_best` and `epoch:60`. Keys and checkpoints call an average by what made it,
`ema:0.999@0`: rows that ask for different ones share their training.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, Self

Network = str
"""One of `last`, `best`, `ema`, `ema_best`, `epoch:<n>`: what a row, a table and `--network` call it."""

NAMES = re.compile(r"last|best|ema|ema_best|epoch:[1-9][0-9]{0,5}")
"""Of networks, as a row calls them."""


class TrialLike(Protocol):
    """What is asked of a `TrialSpec`, which asks here in turn."""

    @property
    def epochs(self) -> int:
        """Epochs that it is trained."""
        ...

    @property
    def held_out(self) -> float:
        """Share of the training images."""
        ...

    @property
    def training(self) -> Any:
        """A `TrainingSpec`."""
        ...

    @property
    def measurement(self) -> Any:
        """A `MeasurementSpec`."""
        ...


_AVERAGE = re.compile(r"(ema|ema_best):([0-9.e-]+)@([0-9]+)(:recalibrated)?")
_EPOCH = re.compile(r"epoch:([0-9]+)")


@dataclass(frozen=True)
class AverageName:
    """An average of weights by what makes it.

    Args:
        decay: Of what is known so far, at each update.
        start: Epochs before it begins.
        recalibrated: Whether its batch normalizations are estimated anew.
        best: Whether it is the one of the epoch that is best on the images held out.
    """

    decay: float
    start: int
    recalibrated: bool = False
    best: bool = False

    def __str__(self) -> str:
        kind = "ema_best" if self.best else "ema"
        return f"{kind}:{self.decay!r}@{self.start}{':recalibrated' if self.recalibrated else ''}"

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """An average by its name; None where the name is that of another network."""
        found = _AVERAGE.fullmatch(name)
        if found is None:
            return None
        return cls(float(found[2]), int(found[3]), found[4] is not None, found[1] == "ema_best")

    @classmethod
    def of(cls, spec: Any, *, best: bool = False) -> Self:
        """What `training.ema`, an `AverageSpec`, asks for."""
        return cls(spec.decay, spec.start, spec.normalization == "recalibrated", best)

    def curve(self, metric: str) -> str:
        """What a history calls a metric of it: `validation/robust/ema:0.999:0`, as MLflow takes it."""
        return f"{metric}/{str(self).replace('@', ':')}"


def epoch_of(name: str) -> int | None:
    """The epoch of `epoch:<n>`; None for other networks."""
    found = _EPOCH.fullmatch(name)
    return None if found is None else int(found[1])


def networks_of(spec: TrialLike) -> dict[Network, str]:
    """What a trial's training leaves, `last` first: as the row calls it -> as keys do."""
    found = {"last": "last"}
    if not spec.epochs:
        return found
    if spec.held_out > 0:
        found["best"] = "best"
    average = spec.training.ema
    if average is not None:
        found["ema"] = str(AverageName.of(average))
        if spec.held_out > 0:
            found["ema_best"] = str(AverageName.of(average, best=True))
    epochs = [*spec.training.keep, epoch_of(spec.measurement.network or "")]
    return found | {f"epoch:{epoch}": f"epoch:{epoch}" for epoch in epochs if epoch}


def needed_for(network: Network) -> str:
    """What a row must set for a network other than `last`."""
    validation, average = "data.validation above 0", "training.ema"
    epoch = epoch_of(network)
    if epoch is not None:
        return f"{epoch} in training.keep"
    return {"best": validation, "ema": average, "ema_best": f"{average} and {validation}"}[network]


def words(network: Network) -> str:
    """What reports call the networks of all rows."""
    epoch = epoch_of(network)
    if epoch is not None:
        return f"networks of epoch {epoch}"
    return {
        "last": "networks of the last epoch",
        "best": "best networks by validation accuracy",
        "ema": "averaged networks",
        "ema_best": "best averaged networks by validation accuracy",
    }[network]


def measured_networks(spec: TrialLike) -> dict[Network, str]:
    """The networks that are measured for a trial: under which name its row has their numbers -> as keys call them.

    Returns:
        All of `networks_of`; with `measurement.network` that one alone, whose numbers then are the row's own.
    """
    found = networks_of(spec)
    asked = spec.measurement.network
    return found if asked is None else {"last": found[asked]}


def asked_of_training(spec: TrialLike) -> tuple[str, ...]:
    """What a training is to keep for a trial beside `last` and `best`, as keys call it."""
    return tuple(name for name in networks_of(spec).values() if name not in ("last", "best"))


def begins_after(name: str) -> int:
    """The last epoch after which a training can still begin to keep a network."""
    average = AverageName.parse(name)
    if average is not None:
        return average.start
    epoch = epoch_of(name)
    return 10**9 if epoch is None else epoch  # last and best are always kept


def can_have(name: str, kept: Iterable[str], epoch: int) -> bool:
    """Whether a training that has got so far has a network, or can have it when it ends.

    Args:
        name: As keys call it.
        kept: What it was asked to keep, as keys call it.
        epoch: Of its checkpoint; -1 without one.
    """
    return name in kept or epoch <= begins_after(name)


def not_kept(name: str) -> str:
    """Why a network cannot be measured: its training was begun without it."""
    setting = "training.keep" if epoch_of(name) is not None else "training.ema"
    return (
        f"expected a training that keeps {name} ({setting}), got one that went past it without; "
        "--rerun ROW trains it once more"
    )
