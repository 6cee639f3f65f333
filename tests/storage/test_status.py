"""How far a training has got."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ablate.storage.records import Record
from ablate.storage.status import TrainingStatus, TrainingView, never_measured, reaches
from ablate.storage.storage import Storage
from tests.support.stored import KEY, MEASUREMENT, history, trained


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


def test_a_training_has_one_status_at_each_step_of_its_life(storage: Storage) -> None:
    def status(*measurements: str) -> TrainingStatus:
        return storage.view(KEY).status(measurements)

    assert status() is status(MEASUREMENT) is TrainingStatus.MISSING
    storage.attempt(KEY).save_log("begun", last=True)
    assert status(MEASUREMENT) is TrainingStatus.MISSING
    attempt = trained(storage, 1)
    assert status() is status(MEASUREMENT) is TrainingStatus.TRAINING
    storage.attempt(KEY).save_stopped(1)
    assert status() is status(MEASUREMENT) is TrainingStatus.STOPPED
    attempt = trained(storage, 2)  # a table takes it up
    assert status() is TrainingStatus.TRAINING
    attempt.save_failure("loss became nan", "", 1)
    assert status() is status(MEASUREMENT) is TrainingStatus.FAILED and storage.view(KEY).reason == "loss became nan"
    attempt = trained(storage, 3, finished=True)
    assert (status(), status(MEASUREMENT)) == (TrainingStatus.FINISHED, TrainingStatus.TRAINED)
    attempt.save_record(Record(MEASUREMENT, {"accuracy": 50.0}))
    other = "ef" * 10
    assert (status(MEASUREMENT), status(MEASUREMENT, other)) == (TrainingStatus.FINISHED, TrainingStatus.TRAINED)
    attempt.save_failure("cw20: out of memory", "", 2)  # of the other measurement: the rows that lack it have failed
    assert (status(), status(MEASUREMENT, other)) == (TrainingStatus.FINISHED, TrainingStatus.FAILED)
    assert status(MEASUREMENT) is TrainingStatus.FINISHED


def test_a_status_is_a_plain_word() -> None:
    assert [str(each) for each in TrainingStatus] == ["missing", "training", "trained", "finished", "failed", "stopped"]
    assert TrainingView(KEY).status() == "missing"


def test_a_history_reaches_an_epoch_that_it_has() -> None:
    for epochs in range(4):
        for epoch in range(-1, 6):
            assert reaches(history(epochs), epoch) == (epoch <= epochs)
    assert reaches([], -1) and not reaches([], 0)


def test_what_a_search_stopped_is_under_way_where_it_is_wanted_whole() -> None:
    view = TrainingView("ab", epoch=3, stopped=3)
    assert view.status() is TrainingStatus.STOPPED
    assert view.status(to_the_end=True) is TrainingStatus.TRAINING


def test_measurements_that_can_still_be_made_keep_a_training_from_being_given_up() -> None:
    view = TrainingView("ab", epoch=5, finished=True, has_checkpoint=True, records={"there": ("path", "sum")})
    lost, last = {"one": "ema:0.9@0"}, {"another": "last", "there": "ema:0.9@0"}
    assert never_measured(view, lost) is not None
    assert never_measured(view, lost | last) is None and never_measured(view, last) is None
    assert never_measured(dataclasses.replace(view, has_checkpoint=False), lost) is None  # it is trained once more
    assert never_measured(dataclasses.replace(view, finished=False), lost) is None
    assert never_measured(dataclasses.replace(view, keeps=("ema:0.9@0",)), lost) is None
