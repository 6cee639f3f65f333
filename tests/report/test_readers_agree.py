"""MLflow and storage, read into results: the same of every state that a row can be in, of a table and of a search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablate.report.from_storage import results_of as stored
from ablate.report.from_tracking import left_out
from ablate.report.from_tracking import results_of as tracked
from ablate.report.results import Results, Trial
from ablate.report.search import search_of
from ablate.report.serialization import results_as_json
from ablate.storage.plans import PlanFile, TrialPart
from ablate.storage.storage import Storage
from ablate.tracking.tracked_plan import TrackedPlan
from tests.support import tracking_world
from tests.support.search_helpers import search_of as searched
from tests.support.tracking_world import EPOCHS, measure, plan_of, tracker_at, train

pytestmark = pytest.mark.slow

ANALYSIS = "spectrum"
Read = Callable[..., tuple[Results, Results, TrackedPlan]]
"""A plan -> its results by MLflow, by storage, and what MLflow has of it."""


def finished(storage: Storage, trial: TrialPart) -> None:
    measure(train(storage, trial.training), trial)


def finished_with_best(storage: Storage, trial: TrialPart) -> None:
    measure(train(storage, trial.training, best=True), trial)


def missing(storage: Storage, trial: TrialPart) -> None:
    pass


def begun(storage: Storage, trial: TrialPart) -> None:
    storage.attempt(trial.training).save_log("begun", last=True)


def initialized(storage: Storage, trial: TrialPart) -> None:
    train(storage, trial.training, 0)


def training(storage: Storage, trial: TrialPart) -> None:
    train(storage, trial.training, 1)


def trained(storage: Storage, trial: TrialPart) -> None:
    train(storage, trial.training)


def partly_measured(storage: Storage, trial: TrialPart) -> None:
    first = dict(list(trial.columns.items())[:1])
    measure(train(storage, trial.training), trial.model_copy(update={"columns": first}))


def failed_at_once(storage: Storage, trial: TrialPart) -> None:
    storage.attempt(trial.training).save_failure("out of memory", "", 1)


def failed_in_the_first_epoch(storage: Storage, trial: TrialPart) -> None:
    train(storage, trial.training, 0).save_failure("loss became nan in epoch 1", "", 1)


def failed_later(storage: Storage, trial: TrialPart) -> None:
    train(storage, trial.training, 2).save_failure("loss became nan in epoch 3: see\nthe log", "", 1)


def failed_while_measuring(storage: Storage, trial: TrialPart) -> None:
    attempt = train(storage, trial.training)
    measure(attempt, trial, count=1)
    attempt.save_failure("pgd20: out of memory", "", 1)


def tried_again(storage: Storage, trial: TrialPart) -> None:
    train(storage, trial.training, 1).save_failure("loss became nan in epoch 2", "", 1)
    train(storage, trial.training, 2)


def stopped(storage: Storage, trial: TrialPart) -> None:
    train(storage, trial.training, 2).save_stopped(2)


def stopped_and_taken_up(storage: Storage, trial: TrialPart) -> None:
    train(storage, trial.training, 1).save_stopped(1)
    finished(storage, trial)


STATES: list[Callable[[Storage, TrialPart], None]] = [
    *(finished, finished_with_best, missing, begun, initialized, training, trained, partly_measured),
    *(failed_at_once, failed_in_the_first_epoch, failed_later, failed_while_measuring, tried_again),
    *(stopped, stopped_and_taken_up),
]


def plan_with(*states: Callable[[Storage, TrialPart], None], search: bool) -> PlanFile:
    metrics = ["accuracy/natural", "accuracy/pgd20", "accuracy_best/pgd20"]
    plan = plan_of([state.__name__ for state in states], metrics=metrics, analyses=[ANALYSIS])
    if not search:
        return plan
    [space] = plan.spaces
    rows = [row.model_copy(update={"sample": {"training.learning_rate": 0.1}}) for row in space.rows]
    wanted = searched().model_dump(mode="json")
    return plan.model_copy(update={"spaces": [space.model_copy(update={"rows": rows, "search": wanted})]})


@pytest.fixture
def both(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    plain = tracking_world.history_of

    def with_validation(*what: Any) -> list[dict[str, Any]]:
        history = plain(*what)
        for entry in history:
            entry["metrics"]["validation/natural"] = 10.0 * entry["metrics"]["train/loss"]
        return history

    monkeypatch.setattr(tracking_world, "history_of", with_validation)
    storage, tracker = Storage(str(tmp_path / "storage")), tracker_at(template)(tmp_path)

    def read(plan: PlanFile, network: Any = "last") -> tuple[Results, Results, TrackedPlan]:
        for trial in plan.trials:
            if storage.view(trial.training).attempts == 0:
                state = next((each for each in STATES if each.__name__ == trial.row), finished)
                state(storage, trial)
        tracker.open_plan(plan, storage)
        tracker.sync(plan, storage)
        shown = tracker.read_plan(plan.spaces[0].name)
        return tracked(shown, network), stored(plan, storage, network), shown

    return read


def told(trial: Trial) -> dict[str, Any]:
    """All that is read of a trial."""
    return {
        "state": trial.state,
        "metrics": dict(trial.metrics),
        "problem": trial.problem,
        "reason": trial.reason,
        "lacking": trial.lacking,
        "gap": trial.gap,
        "trained": trial.trained,
        "epoch": trial.epoch,
        "curves": {metric: trial.curves.get(metric) for metric in ("train/loss", "validation/natural", "none")},
    }


@pytest.mark.parametrize("search", [False, True], ids=["table", "search"])
def test_mlflow_and_storage_tell_the_same_of_every_state(both: Read, search: bool) -> None:
    plan = plan_with(*STATES, search=search)
    for network in ("last", "best"):
        one, other, shown = both(plan, network)
        assert {row: told(trial) for (row, _), trial in one.trials.items()} == {
            row: told(trial) for (row, _), trial in other.trials.items()
        }
        assert results_as_json([one]) == results_as_json([other])
        assert (one.problems, one.gaps) == (other.problems, other.gaps)
        assert one.outcomes.keys() == other.outcomes.keys() != set()
        for place, outcome in one.outcomes.items():
            again = other.outcomes[place]
            assert (outcome.values, outcome.training_key) == (again.values, again.training_key)
            assert outcome.correct.keys() == again.correct.keys() != set()
            assert all((outcome.correct[each] == again.correct[each]).all() for each in outcome.correct)
            arrays = [results.trials[place].arrays() for results in (one, other)]
            assert arrays[0].keys() == arrays[1].keys()
            assert bool(arrays[0]) == (place not in one.gaps)  # an analysis is what it lacks
            assert all((arrays[0][name] == arrays[1][name]).all() for name in arrays[0])
        assert left_out(shown) == []  # nothing was changed, also where a curve has not begun
    if search:
        assert search_of(one) == search_of(other)
        assert {"complete", "failed", "stopped", "open"} == {sample.state for sample in search_of(one).samples}
    states = {row: trial.state for (row, _), trial in other.trials.items()}
    assert states["stopped"] == ("stopped" if search else "training")
    assert {states[state.__name__] for state in STATES} == {"finished", "training", "failed", "missing"} | (
        {"stopped"} if search else set()
    )


def test_the_epoch_of_a_row_is_that_of_its_furthest_checkpoint(both: Read) -> None:
    one, *_ = both(plan_with(*STATES, search=False))
    epochs = {row: trial.epoch for (row, _), trial in one.trials.items()}
    assert (epochs["missing"], epochs["begun"], epochs["failed_at_once"]) == (-1, -1, -1)
    assert (epochs["failed_in_the_first_epoch"], epochs["failed_later"], epochs["finished"]) == (0, 2, EPOCHS)


def test_what_failed_of_a_row_is_told_until_it_is_measured_and_on_the_same_run(both: Read, tmp_path: Path) -> None:
    [trial] = (plan := plan_with(failed_while_measuring, search=False)).trials
    place = trial.row, trial.seed
    before, _, failed = both(plan)
    assert before.trials[place].lacking == ("accuracy/pgd20", "accuracy_best/pgd20", ANALYSIS)
    assert before.gaps[place].startswith("PGD-20, PGD-20 of best, spectrum failed: ")
    measure(Storage(str(tmp_path / "storage")).attempt(trial.training), trial)
    after, other, mended = both(plan)
    assert not after.gaps and (after.trials[place].lacking, after.trials[place].state) == ((), "finished")
    assert mended.trials[place].run_id == failed.trials[place].run_id
    assert after.outcomes[place].values == other.outcomes[place].values
