"""How far a training has got."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.storage.records import Record
from ablate.storage.status import TrainingStatus, TrainingView
from ablate.storage.storage import Storage
from tests.support.stored import KEY, MEASUREMENT, trained


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
