"""What trainings have cost and will: device-hours, or core-hours where there is no GPU; from storage alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ablate.planning.estimates import Estimate, estimate, work_flops
from ablate.planning.plan import Plan, PlannedTraining
from ablate.storage.attempts import alive_path, attempts_of, manifests_of
from ablate.storage.heartbeat import life
from ablate.storage.storage import Storage

_HOUR_S = 3600.0


def hours_text(hours: float, unit: str) -> str:
    """Hours in words."""
    return f"{hours:,.0f} {unit}" if hours >= 10 else f"{hours:.2g} {unit}"


@dataclass(frozen=True)
class Lost:
    """What an attempt has used after its last checkpoint or measurement, up to its last sign of life.

    Attributes:
        until_ms: That sign.
        seconds: Up to it.
        devices: GPUs, or cores, that it had; None where that is not known.
    """

    until_ms: int
    seconds: float
    devices: float | None


@dataclass(frozen=True)
class Spent:
    """What one training has cost.

    Attributes:
        training_s: Of each epoch that led to what there is: when it ended, and how long it took.
        measuring: Of each measurement the same.
        again: Of epochs that another attempt trained, too.
        lost: What attempts that were killed or failed have used besides; of what trains now, since its last epoch.
        devices: GPUs, or cores, that it has had; None before its first sign of life.
        gpu: Whether it was on a GPU.
        whole: Whether it will cost nothing more.
    """

    training_s: tuple[tuple[int, float], ...] = ()
    measuring: tuple[tuple[int, float], ...] = ()
    again: tuple[tuple[int, float], ...] = ()
    lost: tuple[Lost, ...] = ()
    devices: float | None = None
    gpu: bool = False
    whole: bool = False

    def useful(self, usual: float) -> float:
        """Device-hours that nobody has to spend again; `usual` devices where its own are not known."""
        return sum(took for _, took in [*self.training_s, *self.measuring]) * (self.devices or usual) / _HOUR_S

    def hours(self, usual: float, since_ms: int = 0) -> float:
        """Device-hours of all of it from a time on."""
        steps = sum(took for when, took in [*self.training_s, *self.measuring, *self.again] if when >= since_ms)
        spent = steps * (self.devices or usual)
        for each in self.lost:
            seconds = min(each.seconds, max(0.0, (each.until_ms - since_ms) / 1000))
            spent += seconds * (each.devices or self.devices or usual)
        return spent / _HOUR_S


def spent_on(storage: Storage, training: PlannedTraining) -> Spent:
    """What storage tells of a training's cost, all attempts at it together."""
    view = storage.view(training.key)
    if view.attempts == 0:
        return Spent()
    made = {name: record for name in view.records if (record := storage.record(view, name)) is not None}
    epochs = _steps(storage.history(training.key))
    measuring = [(_when(each.meta), _seconds(each.meta)) for each in made.values()]
    ran_on = [each.meta for each in made.values()]
    lost: list[Lost] = []
    manifests = dict(manifests_of(storage.files, training.key))
    histories = {name: _steps(storage.history_of(training.key, name, manifest)) for name, manifest in manifests.items()}
    for attempt in attempts_of(storage.files, training.key):
        alive = life(storage.files, alive_path(training.key, attempt))
        base = f"{training.key}/attempts/{attempt}/"
        known = [when for _, when, _ in histories.get(attempt, [])[-1:]]  # those before may be of an earlier attempt
        known += [_when(record.meta) for name, record in made.items() if view.records[name][0].startswith(base)]
        until = _when(manifests.get(attempt, {}).get("failure") or {})
        had = None
        if alive is not None:
            known.append(alive.began_ms)
            until = max(until, alive.alive_ms)
            on = alive.on.model_dump()
            ran_on.append(on)
            had = _devices(on)
        if known and until > max(known):
            lost.append(Lost(until, (until - max(known)) / 1000, had))
    others = {step for steps in histories.values() for step in steps} - set(epochs)
    return Spent(
        tuple((when, took) for _, when, took in epochs),
        tuple(measuring),
        tuple((when, took) for _, when, took in sorted(others)),
        tuple(lost),
        statistics.median(map(_devices, ran_on)) if ran_on else None,
        any(map(_on_gpu, ran_on)),
        view.finished and view.records.keys() >= training.measurements.keys(),
    )


def _steps(history: Iterable[Mapping[str, Any]]) -> list[tuple[int, int, float]]:
    """Epochs, when they ended and how long they took."""
    return [(int(each["epoch"]), _when(each), _seconds(each["metrics"])) for each in history]


def _when(entry: Mapping[str, Any]) -> int:
    return int(entry.get("timestamp_ms", 0))


def _seconds(entry: Mapping[str, Any]) -> float:
    found = float(entry.get("seconds", 0.0))
    return found if found > 0.0 else 0.0  # nan, too


def _on_gpu(on: Mapping[str, Any]) -> bool:
    return str(on.get("device", "cpu")) != "cpu"


def _devices(on: Mapping[str, Any]) -> float:
    """How many cores, or which part of a GPU, a training had for itself."""
    there = float(on.get("gpu_share", 1.0)) if _on_gpu(on) else float(on.get("threads", 1))
    return there / float(on.get("trainings_per_process", 1))


class Costs:
    """What the trainings of a plan have cost, and what others of it will.

    Args:
        plan: All that may be trained.
        storage: Where they are.
        cores: Of a training, where none has told its own.
    """

    def __init__(self, plan: Plan, storage: Storage, cores: int) -> None:
        self._plan, self._storage, self._cores = plan, storage, cores
        self._whole: dict[str, Spent] = {}
        self._found: dict[str, Spent] = {}
        self._data = {planned.training: planned.data for planned in plan.trials}
        self._work: dict[str, float] = {}
        self._guess: float | None = None
        self.gpu = False

    def look(self, keys: Iterable[str]) -> None:
        """Read what some trainings have cost by now."""
        for key in keys:
            if key not in self._whole:
                self._found[key] = found = spent_on(self._storage, self._plan.trainings[key])
                if found.whole:
                    self._whole[key] = found
        self.gpu = any(found.gpu for found in self._found.values()) if self._whole else self.machine.gpus > 0

    @property
    def unit(self) -> str:
        """In words."""
        return "GPU-hours" if self.gpu else "core-hours"

    def spent(self, since_ms: int) -> float:
        """Hours of all that was looked at, from a time on."""
        return sum(found.hours(self._usual, since_ms) for found in self._found.values())

    @property
    def _usual(self) -> float:
        known = [found.devices for found in self._found.values() if found.devices is not None]
        return statistics.median(known) if known else 1.0 if self.gpu else float(self._cores)

    def left(self, key: str) -> float:
        """Hours that a training will take yet: as others of this plan took, else as estimated."""
        if key in self._whole:
            return 0.0
        whole = self._rate() * self._operations(key)
        found = self._found.get(key)
        return max(0.0, whole - found.useful(self._usual)) if found is not None else whole

    def _rate(self) -> float:
        """Hours of an operation."""
        hours = sum(found.useful(self._usual) for found in self._whole.values())
        if hours > 0.0:
            return hours / sum(map(self._operations, self._whole))
        if self._guess is None:
            self._guess = self.machine.device_hours / sum(map(self._operations, self._plan.trainings))
        return self._guess

    def here(self, hours: float) -> float:
        """Hours of the devices that trainings ran on, as hours of this machine's, which may be of another kind."""
        if self.gpu == (self.machine.gpus > 0):
            return hours
        there = self._rate() * sum(map(self._operations, self._plan.trainings))
        return hours * self.machine.device_hours / there if there > 0.0 else hours

    @cached_property
    def machine(self) -> Estimate:
        """How long all of it would take here."""
        fresh = replace(self._plan, trainings={key: self._fresh(key) for key in self._plan.trainings})
        return estimate(fresh, self._storage)

    def _fresh(self, key: str) -> PlannedTraining:
        known = self._plan.trainings[key]
        return replace(known, action="train", epoch=-1, missing=frozenset(known.measurements), view=None)

    def _operations(self, key: str) -> float:
        if key not in self._work:
            data = self._data[key]
            try:
                work = work_flops(self._fresh(key), data.train_count, data.test_count, data.classes)
            except Exception:  # the user's own code, which may yet do where it is trained
                work = 0.0
            self._work[key] = max(work, 1.0)
        return self._work[key]
