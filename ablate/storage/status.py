"""How far a training has got, by what storage holds of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ablate.spaces.networks import can_have, not_kept
from ablate.storage.checksums import sha256


class TrainingStatus(StrEnum):
    """How far a training has got, with all that is to be measured on it."""

    MISSING = "missing"
    """No epoch of it is stored."""
    TRAINING = "training"
    """Under way, or interrupted: it goes on from its last checkpoint."""
    TRAINED = "trained"
    """To its last epoch; measurements lack."""
    FINISHED = "finished"
    """Trained and measured."""
    FAILED = "failed"
    STOPPED = "stopped"
    """By a search, early."""


@dataclass(frozen=True)
class TrainingView:
    """What storage holds of one training.

    Args:
        key: The training's key.
        epoch: Of the furthest checkpoint; -1 without one.
        finished: Whether the training itself is done (measurements may lack).
        records: Measurement key -> (path, checksum) of its record.
        failure: Reason of the latest attempt's failure, or None.
        attempts: How many there have been.
        stopped: The epoch after which a search stopped it early; None where none did, or where it was taken up since.
        keeps: Names of the networks beside `last` and `best` that its furthest checkpoint has, or that are to come.
        histories: Checksum of the latest history of each attempt: the curves are others only where these are.
    """

    key: str
    epoch: int = -1
    finished: bool = False
    has_checkpoint: bool = False
    records: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    attempts: int = 0
    stopped: int | None = None
    histories: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()

    @property
    def reason(self) -> str | None:
        """Why the latest attempt failed, in one line; None where it did not."""
        return None if self.failure is None else str(self.failure.get("reason", "unknown"))

    def status(self, measurements: Iterable[str] = (), *, to_the_end: bool = False) -> TrainingStatus:
        """How far it has got.

        Args:
            measurements: Keys of what is to be measured on it; none: the training alone is asked about.
            to_the_end: As a table wants it: what a search stopped early is under way.
        """
        if self.finished and self.records.keys() >= set(measurements):
            return TrainingStatus.FINISHED
        if self.failure is not None:
            return TrainingStatus.FAILED
        if self.stopped is not None and not to_the_end:
            return TrainingStatus.STOPPED
        if self.finished:
            return TrainingStatus.TRAINED
        return TrainingStatus.TRAINING if self.epoch >= 0 else TrainingStatus.MISSING


def never_measured(view: TrainingView, wanted: Mapping[str, str]) -> str | None:
    """Why nothing more will be measured of a finished training: it kept none of the networks that lack measurements.

    Args:
        view: Of the training. Without a checkpoint it is trained once more, and then keeps them.
        wanted: Measurement key -> the network it is of, as keys call it.

    Returns:
        In a line; None where there is more to come, or all is there.
    """
    missing = {network for key, network in wanted.items() if key not in view.records}
    if not (missing and view.finished and view.has_checkpoint):
        return None
    lacking = {name for name in missing if not can_have(name, view.keeps, view.epoch)}
    return not_kept(sorted(lacking)[0]) if lacking == missing else None


OF_THE_CLOCK = ("seconds", "images_per_second")
"""Curves that no two trainings share."""


def same_curves(history: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two histories are those of one training: the same bits in every epoch of all that both have."""
    if [entry["epoch"] for entry in history] != [entry["epoch"] for entry in other]:
        return False
    both = [(one["metrics"], two["metrics"]) for one, two in zip(history, other, strict=True)]
    return all(one[name] == two[name] for one, two in both for name in one.keys() & two.keys() - {*OF_THE_CLOCK})


def network_digest(history: Sequence[Mapping[str, Any]]) -> str:
    """What tells a training's network from another that came of the same settings: its curves, bit for bit."""
    told = [
        [entry["epoch"], sorted((name, value) for name, value in entry["metrics"].items() if name not in OF_THE_CLOCK)]
        for entry in history
    ]
    return sha256(json.dumps(told).encode())


def of_two_attempts(earlier: list[dict[str, Any]], later: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Which of two attempts' histories is the training's: the further one.

    Of two that are as far, the earlier one where both are of the same network, whose times are then the original ones;
    else the later one, whose network and records count, too.
    """
    if len(later) != len(earlier):
        return max(earlier, later, key=len)
    return earlier if same_curves(earlier, later) else later


def reaches(history: Sequence[Mapping[str, Any]], epoch: int) -> bool:
    """Whether a history has every epoch up to one.

    Args:
        history: As of `Storage.history`.
        epoch: How far the training has got; -1 where nothing was stored yet.

    Returns:
        False for one cut short.
    """
    return epoch < 0 or (bool(history) and int(history[-1]["epoch"]) >= epoch)
