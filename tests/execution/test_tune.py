"""What a worker tells its driver: everything, in order, and not one round trip for each word."""

from __future__ import annotations

from typing import Any

import pytest

from ablate.execution import tune
from ablate.execution.base import Event
from ablate.execution.tune import Reports


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tune.time, "monotonic", clock)
    return clock


@pytest.fixture
def sent() -> list[dict[str, Any]]:
    """What the driver got."""
    return []


@pytest.fixture
def reports(clock: Clock, sent: list[dict[str, Any]]) -> Reports:
    return Reports(sent.append)


def test_events_that_come_at_once_go_together_in_their_order(
    clock: Clock, reports: Reports, sent: list[dict[str, Any]]
) -> None:
    for number in range(5):
        reports.tell(Event("k", "epoch", done=number))
    clock.now += tune.REPORT_S
    reports.tell(Event("k", "epoch", done=5))
    reports.tell(Event("k", "finished"))
    reports.send(outcome={"key": "k"})
    assert [[event["done"] for event in report["events"]] for report in sent] == [[0], [1, 2, 3, 4, 5], [0]]
    assert sent[-1]["outcome"] == {"key": "k"}


def test_what_another_event_follows_at_once_goes_with_it(
    clock: Clock, reports: Reports, sent: list[dict[str, Any]]
) -> None:
    for number in range(2):
        clock.now += 10
        reports.tell(Event("k", "measured", done=number))
        reports.tell(Event("k", "measuring", done=number))
    clock.now += 10
    reports.tell(Event("k", "finished"))
    assert [[event["kind"] for event in report["events"]] for report in sent] == [["measured", "measuring"]] * 2


def test_a_training_that_begins_is_told_at_once(reports: Reports, sent: list[dict[str, Any]]) -> None:
    reports.tell(Event("k", "epoch"))
    reports.tell(Event("k", "started"))
    assert [event["kind"] for report in sent for event in report["events"]] == ["epoch", "started"]
