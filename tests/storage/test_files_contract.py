"""What files promise wherever they lie, in a folder, a bucket or layers: all or nothing, created by exactly one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ablate.core.errors import StorageError
from ablate.storage.bundles import ABOUT, BundleFiles, write_bundle
from ablate.storage.files import BucketFiles, Files, LocalFiles
from ablate.storage.layers import FilesWithin, LayeredFiles
from ablate.storage.leases import Leases
from ablate.storage.records import Record
from ablate.storage.storage import Storage, open_files

KEY = "ab" * 10
KINDS = {"folder": LocalFiles, "bucket": BucketFiles}


@pytest.fixture(params=[*KINDS, "layers", "within"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("bucket") if request.param == "bucket" else str(tmp_path / "root")


@pytest.fixture
def files(request: pytest.FixtureRequest, location: str, tmp_path: Path) -> Files:
    kind = request.node.callspec.params["location"]
    if kind == "within":
        return FilesWithin(LocalFiles(tmp_path), "root")
    if kind != "layers":
        return open_files(location)
    write_bundle(tmp_path / "below.zip", [(ABOUT, b'{"layout": 1}')])
    return LayeredFiles(LocalFiles(tmp_path / "root"), open_files(str(tmp_path / "below.zip")))


@pytest.fixture(params=KINDS)
def nowhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A location where nothing can be written."""
    (tmp_path / "file").touch()
    if request.param == "folder":
        return str(tmp_path / "file" / "root")
    return str(request.getfixturevalue("bucket")).replace("s3://bucket", "s3://no-such-bucket")


def test_a_location_is_opened_as_what_it_is(location: str, files: Files) -> None:
    opened = open_files(location)
    assert isinstance(opened, KINDS["bucket" if location.startswith("s3:") else "folder"])
    assert files.location == opened.location == location


def test_written_is_read_listed_sized_replaced_and_deleted(files: Files) -> None:
    files.write("a/b.bin", b"123")
    files.write("a/b.bin", b"1234")
    files.write("a/c.bin", b"")
    assert files.read("a/b.bin") == b"1234" and files.read("a/c.bin") == b""
    assert files.list("a") == ["b.bin", "c.bin"]
    assert files.list("") == ["a"]
    assert (files.size("a/b.bin"), files.size("a/c.bin")) == (4, 0)
    files.delete("a/b.bin")
    assert files.list("a") == ["c.bin"] and files.read("a/b.bin") is None


def test_what_is_missing_is_none_and_may_be_deleted(files: Files) -> None:
    assert files.read("a/b") is None and files.size("a/b") is None and files.list("a") == []
    files.delete("a/b")
    files.write("a/b/c", b"x")
    assert files.read("a/b") is None and files.size("a/b") is None  # a folder where a file is asked for
    assert files.list("a") == ["b"]


def test_another_process_sees_what_was_written(location: str, files: Files) -> None:
    files.write("a/b", b"1")
    assert open_files(location).read("a/b") == b"1"


def test_what_is_created_is_not_created_again(files: Files) -> None:
    assert files.create("a/claim", b"1")
    assert not files.create("a/claim", b"2")
    assert files.read("a/claim") == b"1"
    files.delete("a/claim")
    assert files.create("a/claim", b"3") and files.read("a/claim") == b"3"


def test_of_many_at_once_exactly_one_creates(files: Files) -> None:
    for turn in range(10 if isinstance(files, LocalFiles) else 1):
        barrier = threading.Barrier(8)
        won: list[int] = []

        def create(number: int, barrier: threading.Barrier = barrier, won: list[int] = won, turn: int = turn) -> None:
            barrier.wait()
            if files.create(f"claim/{turn}", str(number).encode()):
                won.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert files.read(f"claim/{turn}") == str(won[0]).encode()


def test_a_probe_leaves_nothing_behind(files: Files) -> None:
    files.probe()
    assert files.list("") == []


def test_a_place_that_cannot_be_written_is_named(nowhere: str) -> None:
    files = open_files(nowhere)
    for act in (lambda: files.write("f", b"1"), lambda: files.create("f", b"1")):
        with pytest.raises(StorageError) as caught:
            act()
        assert f"--storage {nowhere.partition('?')[0]}" in str(caught.value)
        assert "expected f to be writable" in str(caught.value)
    with pytest.raises(StorageError, match="--storage"):
        files.probe()


def test_storage_and_leases_stand_on_them(location: str) -> None:
    storage = Storage(location)
    storage.check()
    attempt = storage.attempt(KEY)
    attempt.save_checkpoint(1, b"one", [{"epoch": 1}])
    attempt.save_checkpoint(2, b"two", [{"epoch": 1}, {"epoch": 2}], finished=True)
    attempt.save_record(Record("cd" * 10, {"accuracy/natural": 50.0}))
    view = Storage(location).view(KEY)
    assert (view.epoch, view.finished, list(view.records)) == (2, True, ["cd" * 10])
    assert storage.checkpoint(KEY) == (b"two", [])
    assert storage.prune(KEY) == 6
    assert storage.checkpoint(KEY) == (None, [])
    assert len(storage.history(KEY)) == 2
    first, second = Leases(storage.files), Leases(open_files(location))
    first.beat()
    second.beat()
    assert first.acquire(KEY)
    assert not second.acquire(KEY)
    first.release(KEY)
    assert second.acquire(KEY)


def test_a_bundle_reads_as_the_folder_it_was_made_of(tmp_path: Path) -> None:
    folder = LocalFiles(tmp_path / "root")
    there = {"a/b.bin": b"123", "a/c/d": b"", "e": b"1"}
    for path, content in there.items():
        folder.write(path, content)
    about = [(ABOUT, b'{"layout": 1}')]
    write_bundle(tmp_path / "b.zip", about + [(f"storage/{path}", content) for path, content in there.items()])
    bundle = open_files(str(tmp_path / "b.zip"))
    assert isinstance(bundle, BundleFiles)
    for path in [*there, "a", "a/c", "", "none", "a/none"]:
        for ask in (Files.read, Files.size, Files.list):
            found = [getattr(files, ask.__name__)(path) for files in (folder, bundle)]
            assert found[0] == found[1], (path, ask)


def test_what_lies_below_is_read_and_stays(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b.zip", [(ABOUT, b'{"layout": 1}'), ("storage/a/b", b"below"), ("storage/a/c", b"c")])
    below = open_files(str(tmp_path / "b.zip"))
    files = LayeredFiles(LocalFiles(tmp_path / "root"), below)
    assert not files.create("a/b", b"1")
    files.write("a/b", b"above")
    files.write("a/d", b"d")
    assert files.list("a") == ["b", "c", "d"] and files.read("a/b") == b"above" and files.size("a/c") == 1
    files.delete("a/b")
    assert files.read("a/b") == b"below" == below.read("a/b")
