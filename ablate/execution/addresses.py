"""What a submitted launch may name: places that the whole cluster reaches, without a password in their address.

A job's command line and runtime environment show in dashboards and logs, so a secret in them is a secret told.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import SplitResult, parse_qs, urlsplit

from ablate.core.errors import UserError
from ablate.core.places import refuse_half_written
from ablate.core.redaction import redact


def check_cluster(address: str) -> None:
    """Refuse what is no job server's address.

    Args:
        address: `http://head:8265`.

    Raises:
        UserError: It is none, or holds a login.
    """
    parts = _split(address, "--cluster")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--cluster: expected the address of a job server like http://head:8265, got {address!r}")
    if parts.username or parts.password:
        raise UserError(
            f"--cluster {redact(address)}: expected an address without a login, got one with; "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        )


def check_storage(storage: str, is_shared: bool) -> None:
    """Refuse storage that only this machine reaches.

    Args:
        storage: A folder or a bucket, as given.
        is_shared: Whether the user says that every node mounts the folder.

    Raises:
        UserError: A folder of this machine, or a bucket with keys in its address.
    """
    refuse_half_written(storage, "--storage", "a folder or an address like s3://bucket/prefix")
    what = f"--storage {redact(storage)}"
    if "://" in storage and not storage.startswith("file://"):
        parts = _split(storage, what)
        if parts.username or parts.password:
            raise UserError(
                f"{what}: expected a bucket that the nodes' own identity reaches, got keys in its address; "
                "they would show in the job's command line"
            )
        endpoint = parse_qs(parts.query).get("endpoint_override", [""])[0]
        if endpoint and _is_loopback(_split(endpoint if "://" in endpoint else f"//{endpoint}", what).hostname):
            raise UserError(f"{what}: expected an endpoint that the nodes reach, got this machine's own {endpoint}")
        return
    if not storage.removeprefix("file://").startswith("/"):
        raise UserError(
            f"{what}: expected storage that every node reaches (s3://bucket/prefix, or the absolute path of a shared "
            "folder and --storage-is-shared) with --cluster, got a folder of this machine"
        )
    if not is_shared:
        raise UserError(
            f"{what}: expected storage that every node reaches with --cluster, got a path; add --storage-is-shared "
            "if the head and all nodes mount this folder"
        )


def check_tracking(uri: str | None) -> None:
    """Refuse an MLflow store that only this machine reaches.

    Args:
        uri: As given, or from the environment.

    Raises:
        UserError: None, a file, this machine's own address, or one with a password.
    """
    wanted = "the URL of an MLflow server that the head reaches, or --no-tracking, with --cluster"
    if uri is None:
        raise UserError(f"--tracking-uri: expected {wanted}, got none (mlflow.db is a file of this machine)")
    shown = redact(uri)
    parts = _split(uri, f"--tracking-uri {shown}")
    if parts.password:
        raise UserError(
            f"--tracking-uri {shown}: expected an address without a password, got one with; it would show in the job's "
            "command line: put the login into ~/.mlflow/credentials of the head"
        )
    if parts.scheme in ("", "file") or parts.scheme.startswith("sqlite") or len(parts.scheme) == 1:
        raise UserError(f"--tracking-uri {shown}: expected {wanted}, got a file of this machine")
    if parts.scheme in ("http", "https") and _is_loopback(parts.hostname):
        raise UserError(f"--tracking-uri {shown}: expected {wanted}, got this machine's own address")


def _split(uri: str, what: str) -> SplitResult:
    try:
        return urlsplit(uri)
    except ValueError as error:
        raise UserError(f"{what}: expected an address, got one that cannot be read: {error}") from error


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost" or bool(host and host.endswith(".localhost"))


def ray_address() -> str | None:
    """The cluster that `RAY_ADDRESS` names; None where a launch starts Ray itself."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address
