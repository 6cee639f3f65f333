"""Files in a folder, beyond what buckets promise too (test_files_contract.py): disks that fill up, links, odd names."""

from __future__ import annotations

import errno
import io
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from ablate.core.errors import StorageError
from ablate.storage.files import BucketFiles, LocalFiles
from ablate.storage.storage import open_files


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "root")


def test_below_a_file_there_is_nothing(files: LocalFiles) -> None:
    files.write("file", b"x")
    assert files.read("file/b") is None  # a file where a folder is asked for
    assert files.size("file/b") is None
    assert files.list("file") == []
    files.delete("file/b")


def test_replacing_is_atomic_under_a_readers_eyes(files: LocalFiles) -> None:
    contents = [bytes([n]) * 100_000 for n in range(8)]
    files.write("f", contents[0])
    done = threading.Event()
    wrong: list[int] = []

    def read() -> None:
        while not done.is_set():
            content = files.read("f")
            if content not in contents:
                wrong.append(-1 if content is None else len(content))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5):
        for content in contents:
            files.write("f", content)
    done.set()
    reader.join()
    assert wrong == []
    assert files.list("") == ["f"]


def test_a_write_that_dies_half_way_changes_nothing(files: LocalFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write("f", b"before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"expected f to be writable, with room for 5 bytes, got No space left"):
        files.write("f", b"after")
    with pytest.raises(StorageError, match="No space left"):
        files.create("g", b"after")
    assert files.read("f") == b"before"
    assert files.list("") == ["f"]
    assert sorted(os.listdir(files.root)) == ["f"]  # nothing left beside


def test_without_hard_links_a_disk_that_fills_up_leaves_no_half_of_what_is_created(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    class Full(io.FileIO):
        def write(self, content: object) -> int:
            super().write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        return Full(path, mode.replace("b", "")) if "x" in mode else opened(path, mode, *rest, **named)

    monkeypatch.setattr(os, "link", refuse)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(StorageError, match="No space left on device"):
            files.create("registrations/a.json", b"{}")
    assert files.list("registrations") == []
    assert files.create("registrations/a.json", b"{}") and files.read("registrations/a.json") == b"{}"


def test_without_hard_links_still_exactly_one_creates(files: LocalFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert files.create("f", b"1")
    assert not files.create("f", b"2")
    assert files.read("f") == b"1"
    assert os.listdir(files.root) == ["f"]


def test_a_creation_that_fails_otherwise_says_so(files: LocalFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(StorageError, match="expected f to be writable, got Input/output error"):
        files.create("f", b"1")
    assert os.listdir(files.root) == []


@pytest.mark.parametrize("path", ["folder/" + "x" * 300, "x" * 300])
def test_what_the_system_refuses_is_a_storage_error(files: LocalFiles, path: str) -> None:
    files.write("folder/f", b"")
    for act in (lambda: files.read(path), lambda: files.write(path, b""), lambda: files.delete(path)):
        with pytest.raises(StorageError, match="--storage"):
            act()


def test_names_too_long_are_storage_errors_to_list_and_size(files: LocalFiles) -> None:
    files.write("f", b"")
    with pytest.raises(StorageError):
        files.list("x" * 300)
    with pytest.raises(StorageError):
        files.size("x" * 300)


def test_a_folder_is_opened_by_path_or_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_files("./storage").location == str(tmp_path / "storage")
    assert open_files(f"file://{tmp_path}/x").location == str(tmp_path / "x")
    assert open_files("~/x").location == str(tmp_path / "home" / "x")


@pytest.mark.parametrize("uri", ["nowhere://bucket/x", "s3://", "s3://bucket/x?no_such_option=1"])
def test_a_uri_that_is_refused_is_named(uri: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_files(uri)
    assert str(caught.value).startswith(f"--storage {uri}: expected a folder or a URI of pyarrow.fs, got")


def test_buckets_without_conditional_writes_create_nothing() -> None:
    files = BucketFiles("mock://bucket")
    files.write("f", b"1")
    assert files.read("f") == b"1"
    with pytest.raises(StorageError, match="without conditional writes"):
        files.create("g", b"1")


def test_a_folder_where_a_file_belongs_is_no_file_and_keeps_what_is_in_it(files: LocalFiles) -> None:
    for act in (lambda: files.write("folder", b"new"), lambda: files.delete("folder")):
        files.write("folder/f", b"kept")
        assert files.read("folder") is None and files.size("folder") is None
        act()
        assert [files.read(f"{name}/f") for name in files.list("") if name.startswith("aside-folder-")] == [b"kept"]
        for path in files.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    LocalFiles(tmp_path / "not" / "there").probe()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for place in ("file", "file/inside", "nowhere", "x" * 300):
        with pytest.raises(StorageError, match=r"--storage .*: expected .* writable"):
            LocalFiles(tmp_path / place).probe()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "nowhere"]
