from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from ablate.core.errors import TrackingError
from ablate.tracking.sync import BackgroundSync
from tests.support.tracking_world import plan_of

PLAN = plan_of()


class Told:
    """A tracker that notes what it is asked, and fails or waits when told to."""

    def __init__(self) -> None:
        self.calls: list[set[str] | None] = []
        self.interrupted = 0
        self.unfinished: list[str] = []
        self.away = False
        self.go = threading.Event()
        self.go.set()
        self.inside = threading.Event()
        self.changed = threading.Condition()

    def sync(self, plan: Any, storage: Any, keys: Iterable[str] | None = None) -> list[str]:
        self.inside.set()
        assert self.go.wait(20)
        with self.changed:
            self.calls.append(None if keys is None else set(keys))
            self.changed.notify_all()
        if self.away:
            raise TrackingError("expected an answer, got none")
        return self.unfinished

    def interrupt(self, plan: Any) -> None:
        self.interrupted += 1

    def wait_for(self, told: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(told, 20)


def start(tracker: Told) -> BackgroundSync:
    return BackgroundSync(tracker, PLAN, None, pause_s=0.01, longest_pause_s=0.05)  # type: ignore[arg-type]


def test_everything_goes_first_then_what_changed_then_everything() -> None:
    tracker = Told()
    sync = start(tracker)
    tracker.wait_for(lambda: tracker.calls == [None])
    sync.notify("a")
    tracker.wait_for(lambda: tracker.calls == [None, {"a"}])
    assert sync.close(20)
    assert tracker.calls == [None, {"a"}, None]
    assert (sync.last_error, tracker.interrupted) == (None, 0)


def test_telling_never_waits_and_bursts_go_together() -> None:
    tracker = Told()
    tracker.go.clear()
    sync = start(tracker)
    assert tracker.inside.wait(20)
    for number in range(1000):
        sync.notify(str(number % 7))
    tracker.go.set()
    tracker.wait_for(lambda: len(tracker.calls) > 1)
    assert sync.close(20)
    assert tracker.calls[1] == set("0123456")
    assert len(tracker.calls) <= 4


def test_what_was_told_while_the_server_was_away_arrives_afterwards() -> None:
    tracker = Told()
    sync = start(tracker)
    tracker.wait_for(lambda: len(tracker.calls) == 1)
    tracker.away = True
    sync.notify("a")
    tracker.wait_for(lambda: len(tracker.calls) > 3)
    sync.notify("b")
    tracker.wait_for(lambda: tracker.calls[-1] == {"a", "b"})
    assert isinstance(sync.last_error, TrackingError)
    tracker.away = False
    seen = len(tracker.calls)
    tracker.wait_for(lambda: len(tracker.calls) > seen)
    assert tracker.calls[-1] == {"a", "b"}
    assert sync.close(20)
    assert isinstance(sync.last_error, TrackingError)  # not forgotten


def test_a_server_that_stays_away_is_told_in_the_end() -> None:
    tracker = Told()
    tracker.away = True
    sync = start(tracker)
    assert not sync.close(0.2)
    assert "expected an answer" in str(sync.last_error)


def test_a_call_that_hangs_does_not_hold_the_launch() -> None:
    tracker = Told()
    tracker.go.clear()
    sync = start(tracker)
    assert not sync.close(0.1)
    assert "within 0.1 s" in str(sync.last_error)
    tracker.go.set()


def test_a_server_that_comes_back_while_closing_gets_everything() -> None:
    tracker = Told()
    tracker.away = True
    sync = start(tracker)
    tracker.wait_for(lambda: len(tracker.calls) > 1)
    threading.Timer(0.1, lambda: setattr(tracker, "away", False)).start()
    assert sync.close(20)
    assert tracker.calls[-1] is None


@pytest.mark.parametrize("unfinished", [[], ["a"]])
def test_what_is_unfinished_in_the_end_is_marked(unfinished: list[str]) -> None:
    tracker = Told()
    tracker.unfinished = unfinished
    assert start(tracker).close(20)
    assert tracker.interrupted == len(unfinished)


def test_an_error_nobody_foresaw_ends_no_thread() -> None:
    tracker = Told()
    broken = [True]
    whole = tracker.sync

    def sync(*arguments: Any) -> list[str]:
        if broken and broken.pop():
            raise ValueError("a bug")
        return whole(*arguments)

    tracker.sync = sync  # type: ignore[method-assign]
    background = start(tracker)
    assert background.close(20)
    assert isinstance(background.last_error, ValueError)
