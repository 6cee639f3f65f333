"""Storage: nothing half written is read, nothing valid is lost, a stale writer harms nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablate.core.errors import StorageError
from ablate.storage import storage as storage_module
from ablate.storage.storage import Attempt, Record, Storage, TrainingStatus, TrainingView

KEY = "ab" * 10
MEASUREMENT = "cd" * 10


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


def history(epochs: int) -> list[dict[str, Any]]:
    return [{"epoch": n, "timestamp_ms": 1000 + n, "metrics": {"train/loss": 1 / (n + 1)}} for n in range(epochs + 1)]


def trained(storage: Storage, epochs: int, *, finished: bool = False) -> Attempt:
    attempt = storage.attempt(KEY)
    for epoch in range(epochs + 1):
        attempt.save_checkpoint(
            epoch, f"checkpoint {epoch}".encode(), history(epoch), finished=finished and epoch == epochs
        )
    return attempt


def folder(storage: Storage, attempt: Attempt) -> Path:
    return Path(storage.location) / KEY / "attempts" / attempt.name


def one(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[-1]


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"?" + content[len(content) // 2 + 1 :])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


HARMS = pytest.mark.parametrize("harm", [damage, cut, empty, Path.unlink], ids=["damaged", "cut", "empty", "gone"])


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


def test_old_checkpoints_histories_and_manifests_go(storage: Storage) -> None:
    attempt = trained(storage, 9)
    names = [re.sub(r"-[0-9a-f]{12}", "", path.name) for path in sorted(folder(storage, attempt).iterdir())]
    assert names == [
        "checkpoint-000008.pt",
        "checkpoint-000009.pt",
        "history-000008.json",
        "history-000009.json",
        "manifest-000009.json",
        "manifest-000010.json",
    ]


def test_the_same_epoch_again_keeps_its_file(storage: Storage) -> None:
    attempt = trained(storage, 3)
    for _ in range(3):
        attempt.save_checkpoint(3, b"checkpoint 3", history(3), finished=True)
    assert storage.checkpoint(KEY) == (b"checkpoint 3", [])
    assert storage.history(KEY) == history(3)
    assert storage.view(KEY).finished


def test_files_without_a_manifest_do_not_count(storage: Storage) -> None:
    attempt = trained(storage, 2)
    place = folder(storage, attempt)
    (place / "checkpoint-000009-000000000000.pt").write_bytes(b"half writ")
    (place / "manifest-000009.json").write_bytes(b'{"sha256": "')
    (place / ".tmp-123").write_bytes(b"cut of")
    (Path(storage.location) / KEY / "attempts" / "0002-0123abcd").mkdir()
    (Path(storage.location) / KEY / "attempts" / "notes").mkdir()
    assert storage.checkpoint(KEY) == (b"checkpoint 2", [])
    assert storage.view(KEY).epoch == 2


@pytest.mark.parametrize("step", ["checkpoint", "history", "manifest"])
def test_a_writer_that_dies_at_any_file_leaves_what_was(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    attempt = trained(storage, 2)
    write = storage.files.write

    def die(path: str, content: bytes) -> None:
        if f"/{step}-" in path:
            raise StorageError("no room")
        write(path, content)

    monkeypatch.setattr(storage.files, "write", die)
    with pytest.raises(StorageError):
        attempt.save_checkpoint(3, b"checkpoint 3", history(3), finished=True)
    monkeypatch.undo()
    assert storage.checkpoint(KEY) == (b"checkpoint 2", [])
    assert storage.history(KEY) == history(2)
    assert not storage.view(KEY).finished


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
def test_a_harmed_manifest_falls_back_to_the_one_before(storage: Storage, harm: Callable[[Path], object]) -> None:
    attempt = trained(storage, 5)
    harm(one(folder(storage, attempt), "manifest-*"))
    assert storage.checkpoint(KEY) == (b"checkpoint 4", [])
    assert storage.view(KEY).epoch == 5 - 1
    assert storage.history(KEY) == history(4)


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


@pytest.mark.parametrize(
    "content", [b"[]", b"3", b'{"sha256": 1, "body": 2}', b'{"sha256": "x", "body": "{}"}', b"\xff"]
)
def test_manifests_of_any_other_content_are_passed_over(storage: Storage, content: bytes) -> None:
    attempt = trained(storage, 2)
    (folder(storage, attempt) / "manifest-000099.json").write_bytes(content)
    assert storage.view(KEY).epoch == 2


def test_a_reader_beside_a_fast_writer_always_finds_a_manifest(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = trained(storage, 2)
    listed = storage.files.list
    busy = iter([True])

    def list_then_write(path: str) -> list[str]:
        names = listed(path)
        if path.endswith(attempt.name) and next(busy, False):  # all that was listed goes before it is read
            for epoch in (3, 4, 5):
                attempt.save_checkpoint(epoch, f"checkpoint {epoch}".encode(), history(epoch))
        return names

    monkeypatch.setattr(storage.files, "list", list_then_write)
    assert storage.view(KEY).epoch == 5


def test_a_stale_writer_harms_nothing(storage: Storage) -> None:
    stale = trained(storage, 2)
    later = storage.attempt(KEY)
    for epoch in range(3, 6):
        later.save_checkpoint(epoch, f"checkpoint {epoch}".encode(), history(epoch), finished=epoch == 5)
    later.save_record(Record(MEASUREMENT, {"a": 1.0}))
    stale.save_checkpoint(3, b"checkpoint 3 again", history(3))
    stale.save_failure("lost its node", "", 0)
    view = storage.view(KEY)
    assert (view.epoch, view.finished, view.attempts) == (5, True, 2)
    assert view.failure is None
    assert storage.checkpoint(KEY) == (b"checkpoint 5", [])
    assert storage.history(KEY) == history(5)
    assert storage.record(view, MEASUREMENT) is not None


def test_attempts_never_share_a_folder(storage: Storage) -> None:
    names = [trained(storage, 0).name for _ in range(3)]
    assert [name.split("-")[0] for name in names] == ["0001", "0002", "0003"]
    storage.files.write(f"{KEY}/attempts/9999-00000000/x", b"")
    assert trained(storage, 0).name.startswith("10000-")
    assert trained(storage, 0).name.startswith("10001-")


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


def test_a_failure_is_kept_until_a_later_attempt_goes_on(storage: Storage) -> None:
    attempt = trained(storage, 2)
    attempt.save_failure("loss became nan in epoch 3", "Traceback ...", 1234)
    view = storage.view(KEY)
    assert view.failure == {"reason": "loss became nan in epoch 3", "details": "Traceback ...", "timestamp_ms": 1234}
    assert view.has_checkpoint
    storage.attempt(KEY)  # has written nothing yet
    assert storage.view(KEY).failure is not None
    trained(storage, 3)
    assert storage.view(KEY).failure is None


def test_a_failure_before_the_first_epoch_is_kept_too(storage: Storage) -> None:
    storage.attempt(KEY).save_failure("out of memory", "", 1)
    view = storage.view(KEY)
    assert view.failure is not None
    assert (view.epoch, view.has_checkpoint) == (-1, False)


@pytest.mark.parametrize("layout", [2, 99])
def test_a_newer_layout_is_refused_by_name(storage: Storage, monkeypatch: pytest.MonkeyPatch, layout: int) -> None:
    monkeypatch.setattr(storage_module, "LAYOUT", layout)
    trained(storage, 1)
    content = Record(MEASUREMENT, {}).to_bytes()
    monkeypatch.undo()
    for read in (storage.view, storage.checkpoint, storage.history, storage.prune):
        with pytest.raises(StorageError, match=rf"manifest-\d+.json: expected storage layout 1, got {layout}"):
            read(KEY)
    with pytest.raises(StorageError, match=f"record {MEASUREMENT}: expected storage layout 1, got {layout}"):
        Record.from_bytes(content)


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


def test_logs_are_replaced(storage: Storage) -> None:
    attempt = trained(storage, 0)
    attempt.save_log("one\n")
    attempt.save_log("one\ntwo·\n")
    assert (folder(storage, attempt) / "log.txt").read_text(encoding="utf-8") == "one\ntwo·\n"


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
