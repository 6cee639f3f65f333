"""Storage, read into results: every number is that of its own row, seed and column, and only of what is whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ablate.report.from_storage import results_of
from ablate.storage.plans import PlanFile
from ablate.storage.storage import Storage
from tests.support.stored import cut, damage, empty
from tests.support.tracking_world import EPOCHS, correct_of, finish, history_of, measure, plan_of, train

SEEDS = (0, 1)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


@pytest.fixture
def plan() -> PlanFile:
    return plan_of(seeds=SEEDS, analyses=["spectrum"])


def test_each_number_is_that_of_its_row_seed_and_column(storage: Storage, plan: PlanFile) -> None:
    finish(storage, plan)
    results = results_of(plan, storage)
    assert list(results.outcomes) == [(trial.row, trial.seed) for trial in plan.trials] and results.problems == {}
    for trial in plan.trials:
        outcome = results.outcomes[trial.row, trial.seed]
        assert outcome.training_key == trial.training and outcome.test_key == trial.data.test_digest
        for name, key in trial.columns.items():
            right = correct_of(key)
            assert outcome.values[name.removeprefix("accuracy/")] == 100.0 * right.mean()
            assert np.array_equal(outcome.correct[name.removeprefix("accuracy/")], right)
        assert outcome.values["spectrum/share"] == 0.25
        curve = history_of(trial.training, EPOCHS)
        assert outcome.values["energy/ratio"] == curve[-1]["metrics"]["energy/ratio"]
        assert list(outcome.curves["train/loss"]) == [entry["metrics"]["train/loss"] for entry in curve]


@pytest.mark.parametrize("epochs", range(EPOCHS + 1))
def test_nothing_is_shown_of_what_is_not_finished(storage: Storage, plan: PlanFile, epochs: int) -> None:
    first = plan.trials[0]
    finish(storage, plan, [trial.training for trial in plan.trials[1:]])
    attempt = train(storage, first.training, epochs)
    if epochs == EPOCHS:
        measure(attempt, first, count=1)
    results = results_of(plan, storage)
    assert (first.row, first.seed) not in results.outcomes and len(results.outcomes) == len(plan.trials) - 1
    word = "measuring" if epochs == EPOCHS else "training"
    assert results.problems == {(first.row, first.seed): f"not finished, {word}"}
    at_end = results.trials[first.row, first.seed].at_end
    assert (at_end != {}) == (epochs == EPOCHS)  # the last epoch's alone, and never those of one before it


@pytest.mark.parametrize("harm", [damage, cut, empty])
@pytest.mark.parametrize("pattern", ["record-*", "history-*"])
def test_nothing_is_shown_of_what_is_damaged(
    storage: Storage, plan: PlanFile, harm: Callable[[Path], None], pattern: str
) -> None:
    finish(storage, plan)
    first = plan.trials[0]
    storage.prune(first.training)  # a checkpoint would carry the curves
    for path in Path(storage.location).glob(f"{first.training}/attempts/*/{pattern}"):
        harm(path)
    results = results_of(plan, storage)
    assert results.problems == {(first.row, first.seed): "left out: a file of it in storage is damaged"}
    assert len(results.outcomes) == len(plan.trials) - 1
