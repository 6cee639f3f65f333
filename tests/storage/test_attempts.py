"""Attempts: what counts of their files, whoever writes, dies or comes late."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.core.errors import StorageError
from ablate.storage import attempts, records
from ablate.storage.files import Files
from ablate.storage.layers import LayeredFiles
from ablate.storage.records import Record
from ablate.storage.storage import Storage
from tests.support.stored import HARMS, KEY, MEASUREMENT, folder, history, one, trained


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


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


@HARMS
def test_a_harmed_manifest_falls_back_to_the_one_before(storage: Storage, harm: Callable[[Path], object]) -> None:
    attempt = trained(storage, 5)
    harm(one(folder(storage, attempt), "manifest-*"))
    assert storage.checkpoint(KEY) == (b"checkpoint 4", [])
    assert storage.view(KEY).epoch == 5 - 1
    assert storage.history(KEY) == history(4)


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


@pytest.mark.parametrize("reader", [Storage.of, lambda files: Storage.of(LayeredFiles(files, files))])
def test_of_two_attempts_that_are_as_far_everything_is_the_later_ones(
    storage: Storage, reader: Callable[[Files], Storage]
) -> None:
    for loss in (1.0, 2.0):  # trained twice side by side, as two launches that did not see each other's lease do
        curves = [{**entry, "metrics": {"train/loss": loss}} for entry in history(2)]
        attempt = storage.attempt(KEY)
        attempt.save_checkpoint(2, f"network {loss}".encode(), curves, finished=True)
        attempt.save_record(Record(MEASUREMENT, {"accuracy": loss}))
    read = reader(storage.files)
    assert read.checkpoint(KEY) == (b"network 2.0", [])
    assert [entry["metrics"]["train/loss"] for entry in read.history(KEY)] == [2.0, 2.0, 2.0]
    found = read.record(read.view(KEY), MEASUREMENT)
    assert found is not None and found.scalars == {"accuracy": 2.0}


def test_of_two_attempts_at_the_same_network_the_first_ones_times_stay(storage: Storage) -> None:
    for moment in (1000, 2000):
        curves = [{**entry, "timestamp_ms": moment} for entry in history(2)]
        storage.attempt(KEY).save_checkpoint(2, b"the same", curves, finished=True)
    assert {entry["timestamp_ms"] for entry in storage.history(KEY)} == {1000}


def test_attempts_never_share_a_folder(storage: Storage) -> None:
    names = [trained(storage, 0).name for _ in range(3)]
    assert [name.split("-")[0] for name in names] == ["0001", "0002", "0003"]
    storage.files.write(f"{KEY}/attempts/9999-00000000/x", b"")
    assert trained(storage, 0).name.startswith("10000-")
    assert trained(storage, 0).name.startswith("10001-")


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
    for module in (attempts, records):
        monkeypatch.setattr(module, "LAYOUT", layout)
    trained(storage, 1)
    content = Record(MEASUREMENT, {}).to_bytes()
    monkeypatch.undo()
    for read in (storage.view, storage.checkpoint, storage.history, storage.prune):
        with pytest.raises(StorageError, match=rf"manifest-\d+.json: expected storage layout 1, got {layout}"):
            read(KEY)
    with pytest.raises(StorageError, match=f"record {MEASUREMENT}: expected storage layout 1, got {layout}"):
        Record.from_bytes(content)


def test_logs_are_replaced(storage: Storage) -> None:
    attempt = trained(storage, 0)
    attempt.save_log("one\n")
    attempt.save_log("one\ntwo·\n")
    assert (folder(storage, attempt) / "log.txt").read_text(encoding="utf-8") == "one\ntwo·\n"
