"""Sync while trainings run: a thread that is told what changed, so that nobody waits for MLflow."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol

from ablate.storage.plans import PlanFile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ablate.storage.storage import Storage

PAUSE_S = 0.5
"""Between two syncs; what is told meanwhile goes together."""

LONGEST_PAUSE_S = 30.0
"""Between two tries while the store is away."""


class Syncing(Protocol):
    """The part of `ablate.tracking.Tracker` that is needed here."""

    def sync(self, plan: PlanFile, storage: Storage, keys: Iterable[str] | None = None) -> list[str]:
        """Send what is lacking; see `Tracker.sync`."""

    def interrupt(self, plan: PlanFile) -> None:
        """Mark unfinished runs as stopped; see `Tracker.interrupt`."""

    def open_plan(self, plan: PlanFile, *, storage: Storage | None = None) -> None:
        """Find or create a plan's runs; see `Tracker.open_plan`."""


class BackgroundSync:
    """Keeps MLflow up to date with storage while a launch goes on.

    Args:
        tracker: Prepared, with the plan opened.
        plan: What is launched.
        storage: Where workers write.
        pause_s: Between two syncs.
        longest_pause_s: Between two tries while the store is away.
    """

    def __init__(
        self,
        tracker: Syncing,
        plan: PlanFile,
        storage: Storage,
        *,
        pause_s: float = PAUSE_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        self.last_error: Exception | None = None
        """The latest that went wrong, also if a later try went well."""
        self._tracker = tracker
        self._plan = plan
        self._storage = storage
        self._pause_s = pause_s
        self._longest_pause_s = longest_pause_s
        self._changed: set[str] = set()
        self._everything = True  # what storage held before this launch goes first
        self._grown = False
        self._closing = False
        self._arrived = False
        self._deadline = float("inf")
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="mlflow-sync", daemon=True)
        self._thread.start()

    def notify(self, key: str) -> None:
        """Tell that storage holds more of a training; returns at once."""
        with self._news:
            self._changed.add(key)
            self._news.notify()

    def grow(self, plan: PlanFile) -> None:
        """Tell that the plan has more trials, as a search has while it goes on; returns at once.

        Args:
            plan: The same plan, as it is now.
        """
        with self._news:
            self._plan, self._grown = plan, True

    def close(self, timeout_s: float) -> bool:
        """Sync everything once more, and stop.

        Args:
            timeout_s: How long to try.

        Returns:
            Whether everything that storage holds has arrived; if not, `last_error` says why.
        """
        with self._news:
            self._closing, self._everything = True, True
            self._deadline = time.monotonic() + timeout_s
            self._news.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive() and self.last_error is None:
            self.last_error = TimeoutError(f"expected MLflow to take everything within {timeout_s:g} s, got no end")
        return self._arrived

    def _run(self) -> None:
        pause = self._pause_s
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closing or self._everything or self._changed)
                final, everything, keys = self._closing, self._everything or self._closing, self._changed
                self._everything, self._changed = False, set()
                plan, grown, self._grown = self._plan, self._grown, False
            try:
                if grown:
                    self._tracker.open_plan(plan, storage=self._storage)
                unfinished = self._tracker.sync(plan, self._storage, None if everything else keys)
                if final and unfinished:
                    self._tracker.interrupt(plan)
            except Exception as error:  # whatever it is, the training goes on and storage keeps its numbers
                with self._news:
                    self.last_error = error
                    self._everything = self._everything or everything
                    self._changed |= keys
                    self._grown = self._grown or grown
                pause = min(2 * pause, self._longest_pause_s)
            else:
                pause = self._pause_s
                if final:
                    self._arrived = True
                    return
            with self._news:
                if not self._closing:
                    self._news.wait_for(lambda: self._closing, pause)
            if self._closing:
                if time.monotonic() > self._deadline:
                    return
                if final:
                    time.sleep(min(pause, 2.0, max(0.0, self._deadline - time.monotonic())))
