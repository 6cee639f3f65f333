"""What storage holds of one training, in the form that MLflow's runs are compared with and made from."""

from __future__ import annotations

from typing import Any

from ablate.storage.plans import TrialPart
from ablate.storage.records import Record
from ablate.storage.status import TrainingStatus, TrainingView, reaches
from ablate.storage.storage import Storage
from ablate.tracking.agreement import files_digest
from ablate.tracking.store import Point


class TrainingContents:
    """One training's content in storage, each part read once, when it is wanted."""

    def __init__(self, storage: Storage, view: TrainingView) -> None:
        self.storage = storage
        self.view = view
        self._history: list[dict[str, Any]] | None = None
        self._records: dict[str, Record | None] = {}

    @property
    def history(self) -> list[dict[str, Any]]:
        """Of its epochs, read once."""
        if self._history is None:
            self._history = self.storage.history(self.view.key)
        return self._history

    def record(self, key: str) -> Record | None:
        """A record of it, read once."""
        if key not in self._records:
            self._records[key] = self.storage.record(self.view, key)
        return self._records[key]

    @property
    def has_every_epoch(self) -> bool:
        """Whether its curves are whole; those of damaged storage may end early."""
        return reaches(self.history, self.view.epoch)

    def unreadable(self, trial: TrialPart) -> bool:
        """Whether a record of a trial is there, and damaged."""
        return any(self.record(key) is None for key in trial.measurements & self.view.records.keys())

    def complete(self, trial: TrialPart) -> bool:
        """Whether all of a trial is there and can be read."""
        there = self.view.finished and self.has_every_epoch and trial.required <= self.view.records.keys()
        return there and not self.unreadable(trial)

    def status(self, trial: TrialPart, *, to_the_end: bool = False) -> TrainingStatus:
        """How far a trial has got, by what can be read; as of `TrainingView.status`."""
        found = self.view.status(trial.required, to_the_end=to_the_end)
        if found is TrainingStatus.TRAINED and trial.never_measured(self.view) is not None:
            return TrainingStatus.FAILED
        if found is not TrainingStatus.FINISHED or self.complete(trial):
            return found
        return TrainingStatus.TRAINED if self.view.failure is None else TrainingStatus.FAILED

    def records(self, trial: TrialPart) -> dict[str, Record]:
        """A trial's records by metric or analysis, as far as they are there."""
        found = {name: self.record(key) for name, key in {**trial.columns, **trial.analyses}.items()}
        return {name: record for name, record in found.items() if record is not None}

    def points(self, up_to: int | None = None) -> list[Point]:
        """The curves, epoch by epoch."""
        return [
            Point(name, float(value), entry["timestamp_ms"], entry["epoch"])
            for entry in self.history
            if up_to is None or entry["epoch"] <= up_to
            for name, value in entry["metrics"].items()
        ]

    @property
    def curves_from(self) -> str:
        """Which files the curves are from, without reading them."""
        return files_digest(self.view.histories)

    def trial_from(self, trial: TrialPart) -> str:
        """Which files a trial's numbers are from, without reading them."""
        sums = sorted((key, self.view.records[key][1]) for key in trial.measurements & self.view.records.keys())
        return files_digest([*sums, *self.view.histories])

    @property
    def ended_ms(self) -> int:
        """When the last epoch ended: the same on every sync, unlike now."""
        return int(self.history[-1]["timestamp_ms"]) if self.history else 0

    @property
    def failed_ms(self) -> int:
        """When it failed, milliseconds since 1970."""
        return int((self.view.failure or {}).get("timestamp_ms", self.ended_ms))

    @property
    def reason(self) -> str:
        """Why it failed."""
        return self.view.reason or "unknown"

    def reason_of(self, trial: TrialPart) -> str:
        """Why there is not all of a trial."""
        return self.view.reason or trial.never_measured(self.view) or "unknown"

    def made_ms(self, record: Record) -> int:
        """When a record was made, milliseconds since 1970."""
        return int(record.meta.get("timestamp_ms", self.ended_ms))
