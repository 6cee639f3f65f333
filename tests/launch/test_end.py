"""A launch that ends by the clock, and the command that is run at its end."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from ablate.core.errors import UserError
from ablate.execution.base import Outcome
from ablate.launch.end import time_limit
from ablate.launch.options import Options, parse_max_hours
from ablate.storage.storage import Storage
from tests.support.helpers import launch_here, options_of, plan_of, write_space
from tests.support.tasks import have_tasks_run_by, what_runs_tasks

TELL = 'echo "$ABLATE_EXIT_CODE $ABLATE_PLAN $ABLATE_SUMMARY" > told'


def options(folder: Path, **changes: Any) -> Options:
    return options_of(folder, **{"sets": ["measurement.attacks=[natural]"], "tracking": False, **changes})


class Alarm:
    """A timer that rings when the test says so."""

    rung: list[Alarm] = []

    def __init__(self, seconds: float, function: Any) -> None:
        self.seconds, self.function, self.daemon = seconds, function, False
        self.rung.append(self)

    def start(self) -> None:
        """As a timer."""

    def cancel(self) -> None:
        """As a timer."""


def test_a_launch_ends_in_order_when_its_time_is_up_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_space(tmp_path, epochs=1)
    original, begun = what_runs_tasks(), []

    def second_waits(task: Any, *rest: Any) -> Outcome:
        begun.append(task.key)
        if len(begun) == 2:
            threading.Thread(target=Alarm.rung[0].function).start()
            threading.Event().wait()  # for as long as it takes: until the signal
        outcome: Outcome = original(task, *rest)
        return outcome

    have_tasks_run_by(second_waits, monkeypatch)
    monkeypatch.setattr(Alarm, "rung", [])
    monkeypatch.setattr("ablate.launch.end.Timer", Alarm)
    before = signal.getsignal(signal.SIGTERM)
    code, text = launch_here(options(tmp_path, max_hours=0.5, on_end=TELL))
    assert code == 130 and "0.5 hours are up (--max-hours); what is trained is kept." in text
    assert signal.getsignal(signal.SIGTERM) is before
    assert 1700 < Alarm.rung[0].seconds <= 1800  # less what it took to begin
    plan = plan_of(options(tmp_path))
    finished = [key for key in plan.trainings if Storage(str(tmp_path / "storage")).view(key).finished]
    assert finished == begun[:1] and len(plan.trainings) == 2
    told = (tmp_path / "told").read_text().strip()
    assert told == f"130 {plan.id} 1 training finished, 1 to go"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert launch_here(options(tmp_path, on_end=TELL))[0] == 0
    assert (tmp_path / "told").read_text().strip() == f"0 {plan.id} 2 trainings finished"


def test_no_signal_comes_once_what_was_limited_is_over() -> None:
    for _ in range(50):
        with time_limit(60.0) as up:
            pass
        assert not up.is_set()
    with time_limit(None) as up:
        assert not up.is_set()


def test_a_limit_where_no_signal_can_arrive_is_refused() -> None:
    found: list[str] = []

    def launch() -> None:
        try:
            with time_limit(1.0):
                pass
        except UserError as error:
            found.append(str(error))

    thread = threading.Thread(target=launch)
    thread.start()
    thread.join()
    assert found == ["--max-hours: expected a launch in the main thread of its process, got another thread"]


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "two", ""])
def test_hours_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--max-hours: expected hours, a number above 0, got"):
        parse_max_hours(text)


def test_a_command_at_the_end_that_fails_is_told_and_changes_nothing(tmp_path: Path) -> None:
    write_space(tmp_path, epochs=1)
    code, text = launch_here(options(tmp_path, on_end="exit 3"))
    assert code == 0 and "--on-end: expected a command that ends with exit code 0, got 3" in text


def test_the_command_is_told_of_a_launch_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_space(tmp_path, epochs=1)
    have_tasks_run_by(lambda task, *rest: Outcome(task.key, "failed", "no gradient"), monkeypatch)
    assert launch_here(options(tmp_path, on_end=TELL))[0] == 1
    assert (tmp_path / "told").read_text().split()[0] == "1" and "failed" in (tmp_path / "told").read_text()
