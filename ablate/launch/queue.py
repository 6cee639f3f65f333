"""What is trained next: the one queue of a launch, over the rows of tables or the samples of a search."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from ablate.core.errors import StorageError
from ablate.core.text import now_ms
from ablate.execution.base import Event, GroupSize, Job, Lease, Listener, Outcome, Task, alone
from ablate.learning.data import dataset_name
from ablate.planning.plan import Plan, PlannedTraining, decide
from ablate.spaces.planned_measurement import PlannedMeasurement
from ablate.spaces.specs import TrialSpec
from ablate.storage.leases import Leases
from ablate.storage.storage import Storage

MOST_IN_A_PROCESS = 10**6

Shape = tuple[object, ...]

WAIT_S = 1.0
"""How often a waiting launch looks whether another one has finished or died."""


def shape_of(spec: TrialSpec) -> Shape:
    """What trainings have in common that share a process: one of them has to need as much memory as another."""
    model, training, data = spec.model, spec.training, spec.data
    return (
        *(model.arch, model.width, model.depth, model.quantization.bits < 32, model.quantization.fat),
        *(training.batch_size, training.precision, training.compile),
        dataset_name(data),
    )


class Source(Protocol):
    """Where trainings come from; each is given out once, however many rows or samples want it."""

    def take(self, like: Callable[[PlannedTraining], bool] = ...) -> PlannedTraining | None:
        """The next training, of those that are like what is asked for; None where there is none now."""

    def over(self) -> bool:
        """Whether nothing more is to be begun, and what runs is to stop at its next epoch."""

    def settled(self, training: PlannedTraining) -> bool:
        """Whether storage holds all that is wanted of a training, or why there will be no more of it."""

    def judged(self, training: PlannedTraining) -> bool:
        """Whether early stopping may end a training."""

    def ended(self, training: PlannedTraining, *, before: bool) -> None:
        """A training has ended, as storage tells; `before`: nothing had to be done."""


class TrainingQueue:
    """Gives out trainings, and does what is to be done when they end. See `ablate.execution.base.Queue`.

    It decides anew what storage holds, passes over what is done, waits for what another launch holds, and gives out
    once more what ran out of memory: beside half as many others, alone, and then with a whole GPU. Trainings that
    share a process are of one shape, so that their steps take equally long. A lease is taken by the worker, when it
    starts.

    Args:
        source: Of trainings.
        plan: Of the launch; the source may add to it.
        storage: The truth.
        leases: Of the launch.
        retry_failed: Try failed trainings again, once.
        listen: Told of what only this process knows: that a training was stopped.
        notify: Told the key of a training that MLflow may lack.
        waiting: Told the keys of trainings that another launch holds.
        note: Told what a user should know.
        clock: Seconds, monotonic; a test brings its own.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        storage: Storage,
        leases: Leases,
        *,
        retry_failed: bool = False,
        listen: Listener = lambda event: None,
        notify: Callable[[str], None] = lambda key: None,
        waiting: Callable[[list[str]], None] = lambda keys: None,
        note: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._plan = plan
        self._storage = storage
        self._leases = leases
        self._retry_failed = retry_failed
        self._listen = listen
        self._notify = notify
        self._tell_waiting = waiting
        self._note = note
        self._clock = clock
        self._running: dict[str, PlannedTraining] = {}
        self._elsewhere: dict[str, PlannedTraining] = {}
        self._held_up: dict[str, PlannedTraining] = {}  # trained; what is left hangs on other trainings of the plan
        self._again: list[PlannedTraining] = []  # to be looked at once more, before the source is asked for others
        self._whole: set[str] = set()
        self._given: dict[str, frozenset[str]] = {}  # measurements that a task was given last
        self._beside: dict[str, int] = {}  # of what runs, how many share its process
        self._most: dict[Shape, int] = {}  # that share one, of what has run out of memory
        self._looked = -WAIT_S

    def next(self, together: GroupSize = alone) -> Job | Literal["wait"] | None:
        """See `Queue`."""
        if self._source.over():
            return None
        first = self._next(lambda training: True)
        if first is None:
            # What runs may come back: another launch holds it, or it needs more memory.
            return "wait" if self._elsewhere or self._running else None
        training = self._running[first.key]
        shape, judged = shape_of(training.spec), self._source.judged(training)
        whole = first.key in self._whole
        size = 1 if whole else min(together(training.spec), self._most.get(shape, MOST_IN_A_PROCESS))

        def alike(other: PlannedTraining) -> bool:
            return (
                shape_of(other.spec) == shape and self._source.judged(other) == judged and other.key not in self._whole
            )

        tasks = [first]
        while len(tasks) < size and (another := self._next(alike)) is not None:
            if self._source.judged(self._running[another.key]) == judged:
                tasks.append(another)
            else:  # storage has told meanwhile
                self._again.append(self._running.pop(another.key))
        self._beside.update(dict.fromkeys((task.key for task in tasks), len(tasks)))
        return Job(tuple(tasks), judged, whole)

    def _next(self, like: Callable[[PlannedTraining], bool]) -> Task | None:
        for training in self._candidates(like):
            task = self._task(training)
            if task is not None:
                return task
        return None

    def _candidates(self, like: Callable[[PlannedTraining], bool]) -> Iterator[PlannedTraining]:
        if self._clock() - self._looked >= WAIT_S:
            self._looked = self._clock()
            self._again += [self._elsewhere.pop(key) for key in list(self._elsewhere)]
        for key in [key for key, training in self._held_up.items() if not self._hangs(training)]:
            self._again.append(self._held_up.pop(key))
        while (again := next(filter(like, self._again), None)) is not None:
            self._again.remove(again)
            yield again
        while (training := self._source.take(like)) is not None:
            yield training

    def _task(self, training: PlannedTraining) -> Task | None:
        key = training.key
        free = self._leases.free(key)
        decide(
            self._plan,
            self._storage,
            retry_failed=self._retry_failed,
            held_elsewhere=lambda _: free is None,
            only=[key],
        )
        if self._source.settled(training):
            self._notify(key)
            self._source.ended(training, before=True)
            return None
        if free is None:
            self._wait_for(training)
            return None
        assert training.view is not None
        if self._hangs(training):
            self._held_up[key] = training
            return None
        training.action = "continue" if training.view.has_checkpoint else "train"
        self._running[key] = training
        measurements = tuple(each for each in training.measurements.values() if self._can_be_made(each, key))
        self._given[key] = frozenset(each.key for each in measurements)
        return Task(
            key,
            training.spec,
            measurements,
            self._storage.location,
            lease=Lease(self._leases.owner, free),
            retry_failed=self._retry_failed,
            failed_at=None if training.view.failure is None else training.view.failure.get("timestamp_ms"),
            weights=training.weights,
            keep=tuple(training.keep),
        )

    def _can_be_made(self, measurement: PlannedMeasurement, key: str) -> bool:
        """Whether all that a measurement of a training hangs on is there; the training itself will be."""
        source = measurement.made_on
        if source is None or source.training == key:
            return True
        other = self._plan.trainings.get(source.training)
        return other is not None and other.view is not None and other.view.finished

    def _hangs(self, training: PlannedTraining) -> bool:
        """Whether all that a training lacks hangs on trainings that have not ended yet."""
        if training.view is None or not training.view.finished:
            return False
        lacking = [each for key, each in training.measurements.items() if key in training.missing]
        if not lacking or any(self._can_be_made(each, training.key) for each in lacking):
            return False
        sources = (self._plan.trainings.get(each.made_on.training) for each in lacking if each.made_on is not None)
        return any(source is not None and source.action in ("train", "continue", "wait") for source in sources)

    def _wait_for(self, training: PlannedTraining) -> None:
        training.action = "wait"
        self._elsewhere[training.key] = training
        self._tell_waiting([training.key])

    def ended(self, key: str, outcome: Outcome) -> None:
        """See `Queue`."""
        training, beside = self._running.pop(key), self._beside.pop(key, 1)
        if outcome.state == "not_mine" or (outcome.state == "stopped" and not self._stop(training, outcome.epoch)):
            self._wait_for(training)
            return
        if outcome.needs_more_memory and beside > 1:
            shape = shape_of(training.spec)
            most = self._most[shape] = min(beside // 2, self._most.get(shape, MOST_IN_A_PROCESS))
            how = "by itself" if most == 1 else f"in groups of at most {most} like it"
            self._note(f"{training.rows[0]} ran out of memory in a process of {beside} trainings; once more {how}.")
            self._again.append(training)
            return
        if outcome.needs_more_memory and key not in self._whole:
            self._note(f"{training.rows[0]} ran out of memory in a part of a GPU; once more with a whole one.")
            self._whole.add(key)
            self._again.append(training)
            return
        self._settle(outcome)
        decide(self._plan, self._storage, only=[key])
        if self._hangs(training):
            self._held_up[key] = training
            self._notify(key)
            return
        if outcome.state == "finished" and any(
            name in training.missing and name not in self._given[key] and self._can_be_made(each, key)
            for name, each in training.measurements.items()
        ):  # what it hung on has come while it was measured
            self._again.append(training)
            return
        self._source.ended(training, before=False)
        self._notify(key)

    def _stop(self, training: PlannedTraining, epoch: int) -> bool:
        """Record that a training was stopped early; False where another launch has taken it over."""
        key, epochs = training.key, training.spec.training.epochs
        if not self._leases.taken(key) or not self._leases.acquire(key):
            return False
        # Its worker may not have been told yet; its attempt is not the latest any more.
        self._storage.attempt(key).save_stopped(epoch)
        self._leases.release(key)
        self._listen(Event(key, "stopped", epoch, epochs, timestamp_ms=now_ms()))
        return True

    def _settle(self, outcome: Outcome) -> None:
        key = outcome.key
        with contextlib.suppress(StorageError):
            if outcome.state == "interrupted":
                self._leases.release_taken(key)  # its process may be lost
            elif (
                outcome.state == "failed"
                and self._storage.view(key).failure is None
                and self._leases.free(key) is not None
                and self._leases.acquire(key)
            ):
                # Its process could not store why.
                attempt = self._storage.attempt(key)
                attempt.save_failure(outcome.reason, "", now_ms())
                self._leases.release(key)
