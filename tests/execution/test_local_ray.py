"""What a launch sees to before it starts Ray: loopback, a token of its own, a place for sockets."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablate.core.errors import UserError
from ablate.execution import cluster, local_ray
from ablate.execution.addresses import ray_address
from ablate.execution.local_ray import LOOPBACK_VARIABLE, make_token, sheltered

AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*AUTH, LOOPBACK_VARIABLE, "RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_the_token_is_this_users_alone_from_its_first_moment(home: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make_token()
    finally:
        os.umask(before)
    token = home / ".ray" / "auth_token"
    assert mode(token) == 0o600 and mode(token.parent) == 0o700
    written = token.read_text()
    assert len(written) == 64
    make_token()
    assert token.read_text() == written  # another launch may use it now
    assert os.listdir(token.parent) == ["auth_token"]


@pytest.mark.parametrize("left", [0o644, 0o640, 0o666])
def test_a_token_left_readable_is_mended(home: Path, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    named = home / "own token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    named.write_text("mine")
    named.chmod(left)
    make_token()
    assert mode(named) == 0o600 and named.read_text() == "mine"
    assert not (home / ".ray").exists()


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "given")])
def test_no_token_is_written_where_none_is_read(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    make_token()
    assert not (home / ".ray").exists()


def test_a_home_without_room_for_a_token_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".ray").write_text("a file")
    with pytest.raises(UserError, match=r"auth_token: expected a place for the token .*, got: .*RAY_AUTH_TOKEN_PATH"):
        make_token()


def test_loopback_is_asked_for_while_ray_runs_here_and_not_after(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants, services

    before = ray_constants.ENABLE_RAY_CLUSTER
    with sheltered() as options:
        assert os.environ[LOOPBACK_VARIABLE] == "0"
        assert services.get_node_ip_address() == "127.0.0.1"
        assert options["address"] == "local"
    assert LOOPBACK_VARIABLE not in os.environ
    assert before == ray_constants.ENABLE_RAY_CLUSTER
    monkeypatch.setenv(LOOPBACK_VARIABLE, "1")
    with sheltered():
        assert os.environ[LOOPBACK_VARIABLE] == "0"
    assert os.environ[LOOPBACK_VARIABLE] == "1"


@pytest.mark.parametrize(
    ("address", "named"), [(None, None), ("", None), (" ", None), ("local", None), ("head:6379", "head:6379")]
)
def test_only_a_named_cluster_is_joined(
    monkeypatch: pytest.MonkeyPatch, address: str | None, named: str | None
) -> None:
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert ray_address() == named


@pytest.mark.parametrize("address", ["", "head:6379"])
def test_nothing_of_a_named_cluster_is_changed(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    seen: dict[str, Any] = {}

    def init(**options: Any) -> None:
        seen.update(options, loopback=os.environ.get(LOOPBACK_VARIABLE))

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(cluster, "check_cluster", lambda: None)
    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:1"))
    with cluster.cluster():
        pass
    assert seen["loopback"] == (None if address else "0")
    assert seen.get("address") == (None if address else "local")


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_sockets_lie_in_tmp_where_the_temporary_folder_is_too_long(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with sheltered() as options:
        assert "_temp_dir" not in options
    monkeypatch.setenv(variable, "/" + "t" * 100)
    with sheltered() as options:
        folder = options["_temp_dir"]
    assert len(f"{folder}/{local_ray.SOCKET}") <= local_ray.LONGEST_SOCKET
    monkeypatch.setattr(local_ray.os, "access", lambda *_: False)
    with (
        pytest.raises(UserError, match=rf"{variable}: expected a folder of at most \d+ characters .*RAY_TMPDIR"),
        sheltered(),
    ):
        pass


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/x"), "/x: permission denied"),
        (RuntimeError("first\nsecond"), "first"),
        (SystemError(), "SystemError"),
    ],
)
def test_whatever_keeps_ray_from_starting_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cluster.ray, "init", init)
    with (
        pytest.raises(UserError, match=f"expected Ray to start on this machine, got: {line}; --local"),
        cluster.cluster(),
    ):
        pass
    assert LOOPBACK_VARIABLE not in os.environ


@pytest.mark.parametrize("asked", [(None, 1.0), (10_000, None), (None, 0.5), (10_000, 0.0)])
def test_more_than_this_machine_has_is_refused_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch, asked: tuple[int | None, float | None]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match=r"expected --cpus-per-trial and --gpus-per-trial within this machine's"):
        cluster.check_share(*asked)
    cluster.check_share(None, None)
    cluster.check_share(1, 0.0)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    cluster.check_share(*asked)  # a cluster may add a node


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}"])
def test_a_cluster_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        there = address.format(port=listening.getsockname()[1])
        monkeypatch.setenv("RAY_ADDRESS", there)
        with pytest.raises(UserError, match=f"RAY_ADDRESS: expected a Ray cluster at {there}, got no answer: "):
            cluster.check_cluster()
        listening.listen()
        cluster.check_cluster()
    for nothing_to_try in ("auto", "head"):
        monkeypatch.setenv("RAY_ADDRESS", nothing_to_try)
        cluster.check_cluster()
