"""A Ray started for one launch alone: nobody else reaches it, and it starts wherever the machine can run one.

Whoever reaches Ray's ports and has its token runs code as the user. By itself Ray listens on every interface, and
writes its token readable for everyone on the machine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ablate.core.errors import UserError
from ablate.core.text import reason_of

LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""At 0 Ray's processes listen on loopback only, on every system; its name tells what Ray needs it for itself."""

LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path on Linux."""

SOCKET = "ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"


@contextlib.contextmanager
def sheltered() -> Iterator[dict[str, Any]]:
    """What a Ray that starts inside needs of this process and machine; put back at its end.

    Yields:
        Arguments of `ray.init`.

    Raises:
        UserError: Its token or its sockets have no place.
    """
    make_token()
    with _on_loopback():
        yield {"address": "local", "include_dashboard": False, **session_folder()}


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    from ray._private import ray_constants

    # The environment for the processes that Ray starts. This one may have imported Ray before, and read it then.
    before, read = os.environ.get(LOOPBACK_VARIABLE), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[LOOPBACK_VARIABLE] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = read
        if before is None:
            del os.environ[LOOPBACK_VARIABLE]
        else:
            os.environ[LOOPBACK_VARIABLE] = before


def make_token() -> None:
    """See to it that the token Ray will use is there, and is this user's alone.

    Raises:
        UserError: It cannot be written.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _write_once(path, secrets.token_hex(32))
        found = path.stat()
        if found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise UserError(
            f"{path}: expected a place for the token of the Ray that this launch starts, got: {error.strerror}; name "
            "another file in RAY_AUTH_TOKEN_PATH"
        ) from error


def _write_once(path: Path, text: str) -> None:
    """Write a file of mode 0600, whole from its first moment; one that another launch has made meanwhile stays."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    beside = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        try:
            os.link(beside, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            if not path.exists():
                beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)


def session_folder() -> dict[str, str]:
    """`/tmp` for Ray's session where the folder it would take is too long for the path of a socket.

    Returns:
        Arguments of `ray.init`; none where Ray's own choice will do.

    Raises:
        UserError: Neither can be used.
    """
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(variable) or "/tmp"
    most = LONGEST_SOCKET - len(SOCKET) - 1
    if len(os.fsencode(folder)) <= most:
        return {}
    if not os.access("/tmp", os.W_OK | os.X_OK):
        raise UserError(
            f"{variable}: expected a folder of at most {most} characters for Ray's sockets, got "
            f"{len(os.fsencode(folder))}, and /tmp cannot be written; name a shorter one in RAY_TMPDIR"
        )
    return {"_temp_dir": "/tmp/ray"}


def why_not_started(error: Exception) -> str:
    """Why Ray did not start, in a line."""
    reason = reason_of(error)
    name = getattr(error, "filename", None)
    return f"{name}: {reason}" if name else reason
