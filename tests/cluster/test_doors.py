"""A launch that starts Ray itself opens no door: every socket on loopback, a token that is this user's alone."""

from __future__ import annotations

import contextlib
import ipaddress
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.helpers import write_space
from tests.support.ray_cluster import Launch

LISTENING = "0A"


def processes_of(pid: int) -> Iterator[int]:
    """A process and everything it started, but for what ends meanwhile."""
    yield pid
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for child in (task / "children").read_text().split():
                    yield from processes_of(int(child))


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address of `/proc/net`: words of four bytes, each from its last byte to its first."""
    content = bytes.fromhex(text)
    address = ipaddress.ip_address(b"".join(content[at : at + 4][::-1] for at in range(0, len(content), 4)))
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def open_sockets(pid: int) -> dict[str, ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The sockets on which a process and its children can be reached, by what listens where."""
    owners = {}
    for process in processes_of(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name = Path(f"/proc/{process}/cmdline").read_text().split("\0")[0]
            for link in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # closed meanwhile
                    owners[str(link.readlink())] = f"{Path(name).name} {process}"
    found = {}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            owner = owners.get(f"socket:[{words[9]}]")
            if owner is not None and (words[3] == LISTENING or table.startswith("udp")):
                address, port = words[1].split(":")
                found[f"{owner} {table} {int(port, 16)}"] = address_of(address)
    return found


def test_every_socket_of_a_launch_is_on_loopback_and_its_token_is_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with an empty RAY_ADDRESS, a token that an earlier Ray left readable, and a folder too long for sockets."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "")
    long = tmp_path / ("t" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o644)
    space = write_space(tmp_path, epochs=1, attacks="natural, gn, fgsm")
    launch = Launch(tmp_path, "--space", str(space), "--no-tracking", hold=["measuring"])
    launch.at("measuring", 1)
    found = open_sockets(launch.process.pid)
    owners = " ".join(found)
    assert "raylet" in owners and "gcs_server" in owners  # they are its children: none was overlooked
    assert [where for where, address in found.items() if not address.is_loopback] == []
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    launch.release("measuring")
    launch.ends_with(0)
    assert not list(long.glob("ablate-*"))
