"""Storage: nothing half written is read, nothing valid is lost, a stale writer harms nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.core.errors import StorageError
from ablate.storage.records import Record
from ablate.storage.storage import Storage
from tests.support.stored import HARMS, KEY, MEASUREMENT, cut, damage, empty, folder, history, one, trained


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


def test_an_unknown_training_is_empty(storage: Storage) -> None:
    view = storage.view(KEY)
    assert (view.epoch, view.finished, view.has_checkpoint, view.records, view.failure, view.attempts) == (
        -1,
        False,
        False,
        {},
        None,
        0,
    )
    assert storage.checkpoint(KEY) == (None, [])
    assert storage.history(KEY) == []
    assert storage.keys() == []


def test_storage_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"expected .* to be writable"):
        Storage(str(tmp_path / "file" / "storage")).check()
    good = Storage(str(tmp_path / "new" / "storage"))
    good.check()
    assert good.files.list("") == []


def test_what_a_key_stands_for_is_written_once(storage: Storage) -> None:
    storage.describe(KEY, {"seed": 0})
    storage.describe(KEY, {"seed": 1})
    assert json.loads((Path(storage.location) / KEY / "training.json").read_text()) == {"seed": 0}
    storage.files.write("claims/x", b"")
    assert storage.keys() == [KEY]


def test_the_furthest_checkpoint_and_the_whole_history_come_back(storage: Storage) -> None:
    trained(storage, 5)
    assert storage.checkpoint(KEY) == (b"checkpoint 5", [])
    assert storage.history(KEY) == history(5)
    view = storage.view(KEY)
    assert (view.epoch, view.finished, view.has_checkpoint, view.attempts) == (5, False, True, 1)


@pytest.mark.parametrize("harm", [damage, cut, empty], ids=["damaged", "cut", "empty"])
def test_a_harmed_checkpoint_falls_back_to_the_one_before_with_a_message(
    storage: Storage, harm: Callable[[Path], object]
) -> None:
    attempt = trained(storage, 5)
    harm(one(folder(storage, attempt), "checkpoint-000005-*"))
    content, messages = storage.checkpoint(KEY)
    assert content == b"checkpoint 4"
    assert len(messages) == 1
    assert messages[0].startswith("expected the whole checkpoint of epoch 5, got a damaged")


def test_a_checkpoint_that_is_gone_is_not_planned_with(storage: Storage) -> None:
    attempt = trained(storage, 5)
    for path in folder(storage, attempt).glob("checkpoint-*"):
        path.unlink()
    assert storage.checkpoint(KEY) == (None, [])
    view = storage.view(KEY)
    assert not view.has_checkpoint
    assert storage.history(KEY) == history(5)


@HARMS
def test_a_harmed_history_falls_back_to_the_one_before(storage: Storage, harm: Callable[[Path], object]) -> None:
    attempt = trained(storage, 5)
    harm(one(folder(storage, attempt), "history-000005-*"))
    assert storage.history(KEY) == history(4)


@HARMS
def test_a_harmed_record_is_no_record(storage: Storage, harm: Callable[[Path], object]) -> None:
    attempt = trained(storage, 1)
    attempt.save_record(Record(MEASUREMENT, {"a": 1.0}))
    harm(one(folder(storage, attempt), "record-*"))
    view = storage.view(KEY)
    assert storage.record(view, MEASUREMENT) is None
    assert (MEASUREMENT in view.records) == (harm is not Path.unlink)  # contents are not read for a plan


def test_records_of_all_attempts_count_the_latest_first(storage: Storage) -> None:
    first, second = trained(storage, 1), storage.attempt(KEY)
    first.save_record(Record(MEASUREMENT, {"a": 1.0}))
    first.save_record(Record("ef" * 10, {"b": 1.0}))
    second.save_record(Record(MEASUREMENT, {"a": 2.0}))
    view = storage.view(KEY)
    found = storage.record(view, MEASUREMENT)
    assert found is not None
    assert found.scalars == {"a": 2.0}
    assert storage.record(view, "ef" * 10) is not None
    assert storage.record(view, "00" * 10) is None


def test_pruning_keeps_records_history_and_that_it_finished(storage: Storage) -> None:
    first = trained(storage, 2)
    second = trained(storage, 4, finished=True)
    second.save_record(Record(MEASUREMENT, {"a": 1.0}))
    before = sum(path.stat().st_size for path in Path(storage.location).rglob("checkpoint-*"))
    assert storage.prune(KEY) == before > 0
    assert list(Path(storage.location).rglob("checkpoint-*")) == []
    view = storage.view(KEY)
    assert (view.finished, view.has_checkpoint, view.epoch) == (True, False, 4)
    assert storage.record(view, MEASUREMENT) is not None
    assert storage.history(KEY) == history(4)
    assert storage.checkpoint(KEY) == (None, [])
    assert storage.prune(KEY) == 0
    assert first.name != second.name


def test_after_pruning_a_damaged_manifest_names_no_checkpoint_either(storage: Storage) -> None:
    attempt = trained(storage, 2, finished=True)
    storage.prune(KEY)
    damage(one(folder(storage, attempt), "manifest-*"))
    assert storage.checkpoint(KEY) == (None, [])
    assert not storage.view(KEY).has_checkpoint


def test_where_every_checkpoint_is_damaged_each_is_named(storage: Storage) -> None:
    attempt = trained(storage, 5)
    for path in folder(storage, attempt).glob("checkpoint-*"):
        damage(path)
    content, messages = storage.checkpoint(KEY)
    assert content is None
    assert [re.findall(r"epoch (\d)", message)[0] for message in messages] == ["5", "4"]


@HARMS
def test_a_damaged_record_is_dropped_by_name_and_then_missing(storage: Storage, harm: Callable[[Path], object]) -> None:
    attempt = trained(storage, 1, finished=True)
    attempt.save_record(Record(MEASUREMENT, {"accuracy": 50.0}))
    attempt.save_record(Record("ef" * 10, {"accuracy": 60.0}))
    assert storage.drop_damaged(KEY, [MEASUREMENT, "ef" * 10, "00" * 10]) == []
    path = one(folder(storage, attempt), f"record-{MEASUREMENT}*")
    harm(path)
    messages = storage.drop_damaged(KEY, [MEASUREMENT, "ef" * 10])
    assert len(messages) == (1 if harm is not Path.unlink else 0)
    assert all("got a damaged" in message and path.name in message for message in messages)
    assert list(storage.view(KEY).records) == ["ef" * 10]
