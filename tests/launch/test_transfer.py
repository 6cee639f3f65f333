"""Examples of one row's network on another's: columns that wait for the other training, and for nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.core.errors import SpecError
from ablate.execution.base import Outcome
from ablate.execution.measurements import by_attack
from ablate.execution.tune import pack, unpack
from ablate.learning.state import TrainingState
from ablate.planning.plan import Plan, decide, make_plan, transfer_measurement
from ablate.planning.plan_file import plan_file_of
from ablate.report.from_storage import results_of
from ablate.report.results import Results
from ablate.report.tables import build_table, table_input
from ablate.spaces.metrics import transfer_column, transferred
from ablate.spaces.planned_measurement import MadeOn
from ablate.storage import checkpoints
from ablate.storage.status import TrainingView
from ablate.storage.storage import Storage
from tests.support.helpers import launch_here, numbers, options_of, plan_of, write_space
from tests.support.tasks import have_tasks_run_by, task, what_runs_tasks

ASK = [
    "measurement.transfer_from=[small, large]",
    "measurement.attacks=[natural, pgd20]",
    "model.width=0.1",
    "training.keep=[1]",
    "measurement.network=epoch:1",  # not the last one
]
SEED = 3
ROWS = ("small", "large", "large again")


def launch(folder: Path, **changes: Any) -> int:
    return launch_here(options_of(folder, **{"sets": ASK, "seeds": [SEED], **changes}))[0]


def planned(folder: Path) -> Plan:
    return plan_of(options_of(folder, sets=ASK, seeds=[SEED]))


def results(folder: Path) -> Results:
    return results_of(plan_file_of(planned(folder), {}), Storage(str(folder / "storage")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A launch that nothing came in the way of."""
    folder = tmp_path_factory.mktemp("whole")
    write_space(folder, epochs=2)
    assert launch(folder) == 0
    return folder


def test_every_row_has_a_column_of_each_asked_for_and_its_own_is_pgd20(whole: Path) -> None:
    found = results(whole)
    columns = {"transfer_small", "transfer_large"}
    correct = {row: found.of(row)[0].correct for row in ROWS}
    assert all(columns <= found.of(row)[0].values.keys() for row in ROWS)
    for row in ("small", "large"):
        assert np.array_equal(correct[row][f"transfer_{row}"], correct[row]["pgd20"])
    assert not np.array_equal(correct["small"]["transfer_large"], correct["small"]["pgd20"])
    # Behind the filter of the row that classifies: PGD-20 that does not know of it.
    assert np.array_equal(correct["large again"]["transfer_large"], correct["large again"]["pgd20"])
    small, _ = planned(whole).trainings
    assert len(list((whole / "storage" / small / "attempts").iterdir())) == 2  # it did not wait to be trained
    _, large = planned(whole).trainings.values()
    together = [len(same) for same in by_attack(large.measurements.values()) if same[0].made_on is not None]
    assert together == [2, 2]  # examples are made once for both filters
    before = numbers(whole / "storage")
    assert launch(whole) == 0 and numbers(whole / "storage") == before


def test_files_name_the_rows_that_examples_are_of(whole: Path) -> None:
    made = results(whole)
    files = build_table(table_input(made, whole=True))
    assert [files.header(transfer_column(row)) for row in ("small", "large")] == ["PGD-20 of small", "PGD-20 of large"]


def anew(folder: Path, key: str) -> None:
    """Other bits come of a training once more: its network is gone, and its curves are those of another one."""
    storage = Storage(str(folder / "storage"))
    content, _ = storage.checkpoint(key)
    assert content is not None
    state = checkpoints.load_state(content)
    state["history"][-1]["metrics"]["train/loss"] += 0.5
    for network in (state["network"], *(each["network"] for each in state["kept"].values())):
        network.update({name: value * 0 if "linear" in name else value for name, value in network.items()})
    again = checkpoints.save_state(TrainingState(**state))
    storage.attempt(key).save_checkpoint(2, again, state["history"], finished=True, keeps=["epoch:1"], anew=True)


def test_examples_of_a_network_that_was_trained_anew_are_made_again(whole: Path, tmp_path: Path) -> None:
    write_space(tmp_path, epochs=2)
    shutil.copytree(whole / "storage", tmp_path / "storage")
    small, source = planned(whole).trainings
    before = results(tmp_path).of("small")[0].values
    anew(tmp_path, source)
    assert "accuracy/transfer_large" not in results(tmp_path).trials["small", SEED].metrics
    assert "transfer_large is of examples of a network" in results(tmp_path).problems["small", SEED]
    plan = planned(tmp_path)
    decide(plan, Storage(str(tmp_path / "storage")))
    missing = {plan.trainings[small].measurements[key].name for key in plan.trainings[small].missing}
    assert missing == {"transfer_large"} and plan.trainings[small].action == "continue"
    assert launch(tmp_path) == 0
    after = results(tmp_path).of("small")[0].values
    assert after["transfer_large"] != before["transfer_large"]
    assert {**after, "transfer_large": 0} == {**before, "transfer_large": 0}
    decide(plan, Storage(str(tmp_path / "storage")))
    assert {training.action for training in plan.trainings.values()} == {"reuse"}


@pytest.mark.parametrize("how", ["of an earlier version", "whose source is gone", "whose source is trained again"])
def test_examples_nothing_speaks_against_are_kept(whole: Path, tmp_path: Path, how: str) -> None:
    shutil.copytree(whole / "storage", tmp_path / "storage")
    storage, plan = Storage(str(tmp_path / "storage")), planned(whole)
    small, source = plan.trainings
    transfers = [key for key, each in plan.trainings[small].measurements.items() if each.name == "transfer_large"]
    if how == "of an earlier version":
        for key in transfers:
            record = storage.record(storage.view(small), key)
            assert record is not None and len(record.meta.pop("made_on_digest")) == 64
            storage.attempt(small).save_record(record)
        anew(tmp_path, source)
    else:
        content, _ = storage.checkpoint(source)
        history = storage.history(source)
        shutil.rmtree(tmp_path / "storage" / source)
        if how == "whose source is trained again":
            again = [{**entry, "timestamp_ms": 1, "metrics": {**entry["metrics"], "seconds": 9.0}} for entry in history]
            storage.attempt(source).save_checkpoint(2, content or b"", again, finished=True)
    assert all(storage.record(storage.view(small), key) is not None for key in transfers)
    decide(plan, storage, only=[small])
    assert plan.trainings[small].action == "reuse"


def test_a_source_that_fails_or_is_interrupted_costs_its_column_alone_until_it_comes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, source = planned(whole).trainings
    write_space(tmp_path, epochs=2)
    shutil.copytree(whole / "storage", tmp_path / "storage")
    shutil.rmtree(tmp_path / "storage" / source)
    shutil.rmtree(sorted((tmp_path / "storage" / small / "attempts").iterdir())[-1])  # what waited for the source
    original = what_runs_tasks()
    ending = Outcome(source, "interrupted", "a node was lost")
    have_tasks_run_by(lambda task, *rest: ending if task.key == source else original(task, *rest), monkeypatch)
    assert launch(tmp_path) == 1
    ending = Outcome(source, "failed", "loss became nan")
    assert launch(tmp_path) == 1
    monkeypatch.undo()
    found = results(tmp_path)
    assert "loss became nan" in found.problems["large", SEED] and ("small", SEED) not in found.problems
    assert {"pgd20", "transfer_small"} <= found.of("small")[0].values.keys()
    assert "transfer_large" not in found.of("small")[0].values
    assert launch(tmp_path, retry_failed=True) == 0
    assert numbers(tmp_path / "storage") == numbers(whole / "storage")


def test_keys_name_the_other_training_and_tasks_carry_it(whole: Path) -> None:
    plan = planned(whole)
    columns = {each.trial.label: each.columns for each in plan.trials}
    made = [columns[row][f"accuracy/transfer_{source}"] for row in ROWS for source in ("small", "large")]
    assert len(set(made)) == len(made)
    other = plan_of(options_of(whole, sets=[*ASK, "measurement.eps_255=4"], seeds=[SEED]))
    assert not set(made) & {key for training in other.trainings.values() for key in training.measurements}
    first = plan.trials[0]
    of_networks = {
        transfer_measurement(first, MadeOn(training, network, first.trial.spec), "transfer_large").key
        for training in ("ab", "cd")
        for network in ("last", "epoch:1")
    }
    assert len(of_networks) == 4
    asked = task(plan, Storage(str(whole / "storage")))
    assert unpack(pack(asked)) == asked


def test_a_decision_reads_each_training_once_also_for_those_that_wait_for_it(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, view, read = (
        plan_of(options_of(whole, sets=[*ASK, "measurement.eps_255=4"], seeds=[SEED])),
        Storage.view,
        list[str](),
    )

    def reading(storage: Storage, key: str) -> TrainingView:
        read.append(key)
        return view(storage, key)

    monkeypatch.setattr(Storage, "view", reading)
    decide(plan, Storage(str(whole / "storage")))
    assert all(training.missing for training in plan.trainings.values())
    assert sorted(read) == sorted(plan.trainings)


def test_without_the_other_row_there_is_no_such_column(whole: Path) -> None:
    plan = plan_of(options_of(whole, sets=ASK, seeds=[SEED], rows=["small"]))
    [trial] = plan.trials
    assert "accuracy/transfer_small" in trial.columns and "accuracy/transfer_large" not in trial.columns
    alone = make_plan([], [trial.trial], preset=plan.preset, overrides=[], seeds=[], data_root=whole)  # as of a bundle
    assert alone.trainings.keys() == plan.trainings.keys()
    parts = {part.row: part for part in plan_file_of(planned(whole), {}).trials}
    assert parts["small"].required <= alone.trainings[trial.training].measurements.keys()
    assert len(parts["small"].measurements - parts["small"].required) == 2


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("[smal]", r"measurement.transfer_from: expected a row's label, got 'smal'; did you mean 'small'"),
        ("[small, small]", "expected each name once, got 'small' twice"),
    ],
)
def test_rows_that_are_none_are_refused_in_one_line(whole: Path, asked: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        plan_of(options_of(whole, sets=[f"measurement.transfer_from={asked}"]))


def test_a_column_is_named_after_its_row() -> None:
    assert transfer_column("A-low, filtered") == "transfer_A_low_filtered"
    assert transferred("transfer_A_low_filtered") == transferred("accuracy/transfer_A_low_filtered") == "A_low_filtered"
    assert transferred("pgd20") is None and transferred("accuracy/pgd20") is None
