"""A whole launch with its storage in a bucket: the same numbers as in a folder, reused, continued, and overlapping."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ablate.storage.storage import Storage
from tests.support.helpers import numbers, run_launch, start_launch, until, write_space

LOCAL = ("--local", "--no-tracking", "--cpus-per-trial", "1")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server in this process, and the address of a bucket in it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket="lab")
    yield f"s3://lab/ablate?scheme=http&region=us-east-1&endpoint_override={host}:{port}"
    server.stop()


@pytest.mark.slow
def test_killed_in_a_bucket_and_launched_again_twice_at_once(tmp_path: Path, bucket: str) -> None:
    space = str(write_space(tmp_path, epochs=3, attacks="natural, gn, fgsm"))
    arguments = ("--space", space, *LOCAL)
    run_launch(tmp_path, *arguments)
    process = start_launch(tmp_path, *arguments, "--storage", bucket)
    storage = Storage(bucket)
    until(lambda: any(storage.view(key).epoch >= 1 for key in storage.keys()), what="a checkpoint in the bucket")  # noqa: SIM118
    process.kill_group()
    outputs = [tmp_path / "first.txt", tmp_path / "second.txt"]
    launches = [start_launch(tmp_path, *arguments, "--storage", bucket, out=output) for output in outputs]
    for launch, output in zip(launches, outputs, strict=True):
        assert launch.wait(240) == 0, output.read_text()
    assert numbers(bucket) == numbers(tmp_path / "storage")
    attempts = {key: storage.view(key).attempts for key in storage.keys()}  # noqa: SIM118
    assert sum(attempts.values()) == 3  # two trainings, one of them in two attempts
    assert "reuse" in run_launch(tmp_path, *arguments, "--storage", bucket)
    run_launch(tmp_path, *arguments, "--storage", bucket, "--prune")
    assert all(not storage.view(key).has_checkpoint for key in storage.keys())  # noqa: SIM118
