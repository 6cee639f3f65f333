"""Trainings and single records deleted, in a folder and in a bucket: nothing of them is left, all else is as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.storage.deletion import delete_records, delete_training, training_files
from ablate.storage.records import Record
from ablate.storage.storage import Storage
from tests.support.stored import KEY, MEASUREMENT, trained

OTHER = "ef" * 10


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket"))


def test_a_training_leaves_nothing_behind_and_a_record_leaves_the_others(storage: Storage) -> None:
    attempt = trained(storage, 1, finished=True)
    for key in (MEASUREMENT, OTHER):
        attempt.save_record(Record(key, {"accuracy": 50.0}))
    storage.describe(KEY, {"a": 1})
    taken = sum(training_files(storage, KEY).values())
    assert delete_records(storage, KEY, [OTHER]) > 0
    view = storage.view(KEY)
    assert view.records.keys() == {MEASUREMENT} and view.has_checkpoint and storage.damage(KEY) == []
    assert storage.record(view, MEASUREMENT) is not None
    assert 0 < delete_training(storage, KEY) < taken
    assert storage.keys() == [] and storage.files.list("") == [] and storage.view(KEY).attempts == 0
    assert delete_training(storage, KEY) == 0  # again, as after having been cut short
