"""What is trained next: the one queue of a launch, over the rows of tables or the samples of a search."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from ablate.core.errors import StorageError
from ablate.core.text import now_ms
from ablate.execution.base import Event, Job, Lease, Listener, Outcome, Task
from ablate.planning.plan import Plan, PlannedTraining, decide
from ablate.storage.leases import Leases
from ablate.storage.storage import Storage

WAIT_S = 1.0
"""How often a waiting launch looks whether another one has finished or died."""


class Source(Protocol):
    """Where trainings come from; each is given out once, however many rows or samples want it."""

    def take(self) -> PlannedTraining | None:
        """The next training; None where there is none now."""

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
    once more, with a whole GPU, what ran out of memory in its part of one. A lease is taken by the worker, when it
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
        self._again: list[PlannedTraining] = []  # with a whole GPU
        self._whole: set[str] = set()
        self._looked = -WAIT_S

    def next(self) -> Job | Literal["wait"] | None:
        """See `Queue`."""
        if self._source.over():
            return None
        for training in self._candidates():
            job = self._job(training)
            if job is not None:
                return job
        # What runs may come back: another launch holds it, or it needs a whole GPU.
        return "wait" if self._elsewhere or self._running else None

    def _candidates(self) -> Iterator[PlannedTraining]:
        if self._clock() - self._looked >= WAIT_S:
            self._looked = self._clock()
            for key in list(self._elsewhere):
                yield self._elsewhere.pop(key)
        while self._again:
            yield self._again.pop(0)
        while (training := self._source.take()) is not None:
            yield training

    def _job(self, training: PlannedTraining) -> Job | None:
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
        training.action = "continue" if training.view.has_checkpoint else "train"
        self._running[key] = training
        task = Task(
            key,
            training.spec,
            tuple(training.measurements.values()),
            self._storage.location,
            lease=Lease(self._leases.owner, free),
            retry_failed=self._retry_failed,
        )
        return Job((task,), self._source.judged(training), key in self._whole)

    def _wait_for(self, training: PlannedTraining) -> None:
        training.action = "wait"
        self._elsewhere[training.key] = training
        self._tell_waiting([training.key])

    def ended(self, key: str, outcome: Outcome) -> None:
        """See `Queue`."""
        training = self._running.pop(key)
        if outcome.state == "not_mine" or (outcome.state == "stopped" and not self._stop(training, outcome.epoch)):
            self._wait_for(training)
            return
        if outcome.needs_more_memory and key not in self._whole:
            self._note(f"{training.rows[0]} ran out of memory in a part of a GPU; once more with a whole one.")
            self._whole.add(key)
            self._again.append(training)
            return
        self._settle(outcome)
        decide(self._plan, self._storage, only=[key])
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
