"""Which samples go on: judged at the same epochs, and by what was seen before."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ablate.execution.schedulers import EPOCH, StoppingScheduler, TuneEarlyStopping
from tests.support.search_helpers import search_of

# isort: split
from ray.tune.schedulers import TrialScheduler


def test_median_stops_what_is_below_the_others() -> None:
    judge = TuneEarlyStopping(search_of(scheduler={"name": "median", "least_samples": 2}), 10)
    for number, value in enumerate((60.0, 50.0, 55.0)):
        judge.replay(number, {1: value, 2: value + 5, 3: value + 9})
    assert judge.should_continue(7, 1, 58.0)
    assert not judge.should_continue(8, 1, 20.0)


def test_asha_promotes_the_best_and_never_judges_the_last_epoch() -> None:
    judge = TuneEarlyStopping(search_of(scheduler={"name": "asha", "grace_epochs": 2, "reduction": 2}), 4)
    judge.replay(0, {1: 50.0, 2: 60.0, 3: 61.0, 4: 62.0})
    assert judge.should_continue(1, 1, 0.0)  # within its grace
    assert not judge.should_continue(1, 2, 10.0)
    assert judge.should_continue(2, 2, 70.0)
    assert judge.should_continue(2, 4, 0.0)
    down = TuneEarlyStopping(
        search_of(scheduler={"name": "asha"}, objective={"metric": "validation/natural", "mode": "min"}), 4
    )
    down.replay(0, {1: 50.0})
    assert not down.should_continue(1, 1, 60.0)


def answers(judge: TuneEarlyStopping, key: int) -> list[bool]:
    """What it says of a training, epoch by epoch, until it is stopped; later ones are worse."""
    found: list[bool] = []
    while all(found) and len(found) < 4:
        found.append(judge.should_continue(str(key), len(found) + 1, len(found) - 10.0 * key))
    return found


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_epochs_told_again_by_a_process_that_was_lost_are_answered_as_before(scheduler: str) -> None:
    judge, once = (TuneEarlyStopping(search_of(scheduler={"name": scheduler}), 9) for _ in range(2))
    ends = []
    for key in range(9):
        first = answers(judge, key)
        assert answers(judge, key) == first == answers(once, key)
        ends.append(first[-1])
    assert True in ends and False in ends


def test_tune_asks_about_epochs_alone_and_about_the_training_that_tells_them() -> None:
    asked: list[tuple[str, int, float]] = []

    def should_continue(*told: object) -> bool:
        asked.append(told)  # type: ignore[arg-type]
        return len(asked) < 2

    scheduler = StoppingScheduler(SimpleNamespace(metric="validation/natural", should_continue=should_continue))  # type: ignore[arg-type]
    told = [{"judged": "k", EPOCH: epoch, "validation/natural": 50.0 + epoch} for epoch in (1, 2)]
    assert [scheduler.on_trial_result(None, None, each) for each in ({"events": []}, *told)] == [
        *(TrialScheduler.CONTINUE, TrialScheduler.CONTINUE),
        TrialScheduler.STOP,
    ]
    assert asked == [("k", 1, 51.0), ("k", 2, 52.0)]
