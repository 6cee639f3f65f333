"""Which samples go on: judged at the same epochs, and by what was seen before."""

from __future__ import annotations

from ablate.execution.schedulers import TuneEarlyStopping
from tests.support.search_helpers import search_of


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
