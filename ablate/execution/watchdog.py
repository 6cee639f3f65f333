"""Trainings that hang: how long one may take until its next epoch or measurement ends, and what is done after that.

It is told and ended as interrupted: the same command goes on. Another process, of Ray or not, is killed; in this one
the training is broken off by a signal, which reaches Python code and waits, but nothing inside a library's own loop.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from ablate.core.text import plural
from ablate.execution.base import Event, Task, dataset_of
from ablate.learning.cost import measurement_cost, training_cost
from ablate.learning.data import Dataset
from ablate.storage.storage import Storage

LEAST_S = 15 * 60.0
FIRST_S = 3600.0
FACTOR = 10.0
LOOK_S = 1.0
"""How often it is looked at."""

PAUSE_S = 120.0
"""Who has not looked for so long was paused itself, and trainings that wait for it have not hung."""


class Hung(BaseException):
    """A training of this process that hangs; no error, and nothing that a user's own code may catch."""


@dataclass
class _Watched:
    since: float
    measuring: bool = False
    first: bool = True  # nothing has ended yet: the time goes into setting up, and into compiling
    longest: float = 0.0
    longest_epoch: float = 0.0


class Watchdog:
    """Hears what trainings tell, and knows which of them hang.

    Args:
        clock: Seconds, monotonic; a test brings its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # a signal may come while its own thread is in here
        self._looked = clock()
        self._active: dict[str, _Watched] = {}
        self._beside: dict[str, frozenset[str]] = {}
        self._epochs_a_measurement: dict[str, float] = {}
        self._epoch_s: dict[str, float] = {}

    def expect(self, tasks: Sequence[Task], datasets: Mapping[str, Dataset]) -> None:
        """Learn how long the measurements of trainings may take, from their work and their epochs so far.

        Args:
            tasks: Those of one process.
            datasets: By name.
        """
        self.together([task.key for task in tasks])
        for task in tasks:
            dataset = dataset_of(task, datasets)
            costs = [
                measurement_cost(each, len(dataset.test_labels), task.spec.data.image_size, at_most=True)
                for each in task.measurements
            ]
            epoch = training_cost(task.spec, len(dataset.train_labels))
            self._epochs_a_measurement[task.key] = max(costs, default=0.0) / epoch
            told = [entry["metrics"].get("seconds") for entry in Storage(task.storage).history(task.key)]
            seconds = [each for each in told if isinstance(each, (int, float)) and math.isfinite(each)]
            self._epoch_s[task.key] = max(seconds, default=0.0)

    def together(self, keys: Sequence[str]) -> None:
        """These trainings take turns in one process: as long as one gets on, none of them hangs."""
        self._beside.update(dict.fromkeys(keys, frozenset(keys)))

    def begin(self, key: str) -> None:
        """A training begins, perhaps again."""
        with self._lock:
            self._active[key] = _Watched(self._clock())

    def forget(self, key: str) -> None:
        """Nothing is expected of a training any more, or for now."""
        with self._lock:
            if self._active.pop(key, None) is not None:
                for each in self._process(key):  # whose turns may have waited for its last one
                    self._active[each].since = self._clock()

    def _process(self, key: str) -> list[str]:
        """What runs in a training's process."""
        return [each for each in self._beside.get(key, (key,)) if each in self._active]

    def handle(self, event: Event) -> None:
        """Take in what a training tells.

        Args:
            event: Of any training.
        """
        if event.kind in ("finished", "failed", "interrupted", "stopped"):
            self.forget(event.key)
            return
        if event.kind == "started" or event.key not in self._active:
            self.begin(event.key)
        with self._lock:
            what, now = self._active[event.key], self._clock()
            took, what.since = now - what.since, now
            if event.kind == "measured" or (event.kind == "epoch" and event.done > 0):
                what.longest = max(what.longest, took)
                what.first = False
            if event.kind == "epoch" and event.done > 0:
                what.longest_epoch = max(what.longest_epoch, took)
            # A worker's word that it measures may come together with the next one: after the last epoch it does.
            what.measuring = event.kind in ("measuring", "measured") or event.done >= event.total > 0

    def limit_s(self, key: str) -> float:
        """How long a training may take until its next epoch or measurement ends.

        Args:
            key: Of a training that runs.
        """
        what = self._active[key]
        limit = max(LEAST_S, FACTOR * what.longest, FIRST_S if what.first else 0.0)
        if not what.measuring:
            return limit
        epoch_s = max(what.longest_epoch, self._epoch_s.get(key, 0.0))
        estimate = epoch_s * self._epochs_a_measurement.get(key, 0.0)
        return max(limit, FACTOR * estimate if estimate else FIRST_S)

    def hung(self) -> dict[str, str]:
        """Which trainings hang.

        Returns:
            Key -> one line that says for how long nothing has ended.
        """
        with self._lock:
            now = self._clock()
            paused, self._looked = now - self._looked, now
            for what in self._active.values() if paused > PAUSE_S else ():
                what.since = min(now, what.since + paused)
            hung = {}
            for key, what in self._active.items():
                process = self._process(key)
                waited = now - max(self._active[each].since for each in process)
                if waited > max(map(self.limit_s, process)):
                    waits_for = "measurement" if what.measuring else "epoch"
                    hung[key] = f"it hangs: no {waits_for} has ended for {plural(int(waited // 60), 'minute')}"
            return hung

    def go_on(self) -> None:
        """What hung has been broken off: those beside it have waited for it."""
        with self._lock:
            for what in self._active.values():
                what.since = self._clock()

    def look(self, end: Callable[[str, str], bool]) -> None:
        """End what hangs.

        Args:
            end: Ends a training, by its key and for a reason; False where it may go on, and is looked at again.
        """
        for key, reason in self.hung().items():
            if end(key, reason):
                self.forget(key)


@contextlib.contextmanager
def breaking_off(
    watch: Watchdog, keys: Sequence[str], note: Callable[[str], None], every_s: float | None = None
) -> Iterator[None]:
    """Break a training of this process off when it hangs; those that take turns with it go on.

    Args:
        watch: Told what the trainings tell.
        keys: Of the trainings.
        note: Told that one hangs, once, where nothing can break it off: outside the main thread.
        every_s: Between two looks; none: `LOOK_S`.

    Raises:
        Hung: In the one whose turn it is; the message says for how long.
    """
    main = threading.main_thread()
    breakable = threading.current_thread() is main and hasattr(signal, "SIGUSR2")
    over, told = threading.Event(), threading.Event()

    def end(key: str, reason: str) -> bool:
        if breakable and main.ident is not None:
            signal.pthread_kill(main.ident, signal.SIGUSR2)
        if not told.is_set():
            told.set()
            note(f"{reason}; if it does not end, kill this process: the same command goes on")
        return False

    def look() -> None:
        while not over.wait(LOOK_S if every_s is None else every_s):
            watch.look(end)

    def stop(signum: int, frame: FrameType | None) -> None:
        reason = next(iter(watch.hung().values()), None)
        if reason is not None and not over.is_set():  # else it has got on in this moment
            watch.go_on()
            raise Hung(reason)

    before = signal.signal(signal.SIGUSR2, stop) if breakable else None
    thread = threading.Thread(target=look, name="hanging", daemon=True)
    for key in keys:
        watch.begin(key)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for key in keys:
            watch.forget(key)
        if breakable:
            signal.signal(signal.SIGUSR2, before)
