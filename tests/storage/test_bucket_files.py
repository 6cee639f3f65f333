"""Files in a bucket: the same promises as in a folder, against an S3 server."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ablate.core.errors import StorageError
from ablate.storage.files import BucketFiles
from ablate.storage.leases import Leases
from ablate.storage.storage import Record, Storage

KEY = "ab" * 10


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        patch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"{host}:{port}"
    boto3.client("s3", endpoint_url=f"http://{address}", region_name="us-east-1").create_bucket(Bucket="bucket")
    yield address
    server.stop()
    patch.undo()


@pytest.fixture
def uri(server: str) -> str:
    return f"s3://bucket/{uuid.uuid4().hex}?scheme=http&region=us-east-1&endpoint_override={server}"


def test_written_is_read_listed_sized_and_deleted(uri: str) -> None:
    files = BucketFiles(uri)
    assert files.read("a/b.bin") is None
    assert files.size("a/b.bin") is None
    assert files.list("a") == []
    files.delete("a/b.bin")
    files.write("a/b.bin", b"123")
    files.write("a/b.bin", b"1234")
    files.write("a/c.bin", b"")
    assert files.read("a/b.bin") == b"1234"
    assert files.list("a") == ["b.bin", "c.bin"]
    assert "a" in files.list("")
    assert files.size("a/b.bin") == 4
    files.delete("a/b.bin")
    assert files.list("a") == ["c.bin"]


def test_of_many_at_once_exactly_one_creates(uri: str) -> None:
    files = BucketFiles(uri)
    barrier = threading.Barrier(6)
    won: list[int] = []

    def create(number: int) -> None:
        barrier.wait()
        if files.create("claim", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert files.read("claim") == str(won[0]).encode()


def test_a_bucket_that_is_not_there_is_named(uri: str) -> None:
    files = BucketFiles(uri.replace("s3://bucket", "s3://no-such-bucket"))
    with pytest.raises(StorageError, match=r"--storage s3://no-such-bucket.*expected f to be writable"):
        files.write("f", b"1")
    with pytest.raises(StorageError, match=r"--storage s3://no-such-bucket.*expected f to be writable"):
        files.create("f", b"1")


def test_storage_and_claims_work_in_a_bucket(uri: str) -> None:
    storage = Storage(uri)
    storage.check()
    attempt = storage.attempt(KEY)
    attempt.save_checkpoint(1, b"one", [{"epoch": 1}])
    attempt.save_checkpoint(2, b"two", [{"epoch": 1}, {"epoch": 2}], finished=True)
    attempt.save_record(Record("cd" * 10, {"accuracy/natural": 50.0}))
    view = Storage(uri).view(KEY)
    assert (view.epoch, view.finished, list(view.records)) == (2, True, ["cd" * 10])
    assert storage.checkpoint(KEY) == (b"two", [])
    assert storage.prune(KEY) == 6
    assert storage.checkpoint(KEY) == (None, [])
    assert len(storage.history(KEY)) == 2
    first, second = Leases(storage.files), Leases(BucketFiles(uri))
    first.beat()
    second.beat()
    assert first.acquire(KEY)
    assert not second.acquire(KEY)
    first.release(KEY)
    assert second.acquire(KEY)
