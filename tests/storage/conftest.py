"""A bucket on an S3 server of this process, for tests of what lies in one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
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
def bucket(s3_server: str) -> str:
    """An address in the bucket at which there is nothing yet."""
    return f"s3://bucket/{uuid.uuid4().hex}?scheme=http&region=us-east-1&endpoint_override={s3_server}"
