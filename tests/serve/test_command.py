"""python -m ablate.serve as it is started: where it listens, for whom, and what of it is refused in a line."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ablate.serve.__main__ import app, listen
from ablate.serve.guard import is_loopback
from ablate.serve.server import LiveServer, link_of


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--port", "70000"], "--port: expected a number from 0 to 65535, got 70000"),
        (["--host", "no-such-name.invalid"], "--host: expected a name or address of this machine"),
        (["--host", "192.0.2.1"], "--host: expected a name or address of this machine, got '192.0.2.1'"),
        (["--import", "no_such_module"], "--import no_such_module: expected a module that can be imported"),
        (["--storage", "s3:/half"], "--storage: expected a folder or an address"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(given: list[str], told: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--storage", str(tmp_path), *given])
    assert done.exit_code == 2 and told in done.output and "Traceback" not in done.output


def test_a_port_that_another_program_has_is_told_in_a_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["--storage", str(tmp_path), "--port", str(port)])
    [line] = done.output.splitlines()
    assert done.exit_code == 2 and line.startswith(f"--port: expected a free port of 127.0.0.1, got {port}")


@pytest.mark.parametrize("given", [(), ("--host", "0.0.0.0"), ("--host", "localhost")])
def test_the_printed_link_carries_a_token_where_others_reach_it(
    given: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[socket.socket] = []
    monkeypatch.setattr(LiveServer, "run", lambda server, listening: served.append(listening))
    printed = [CliRunner().invoke(app, ["--storage", str(tmp_path), "--port", "0", *given]).output for _ in range(2)]
    tokens = [text.partition("?token=")[2].strip() for text in printed]
    assert len(served) == 2 and all(
        f":{each.getsockname()[1]}/" in text for each, text in zip(served, printed, strict=True)
    )
    if "0.0.0.0" in given:
        assert tokens[0] != tokens[1] and all(len(token) >= 32 for token in tokens)
    else:
        assert tokens == ["", ""] and all(each.getsockname()[0] == "127.0.0.1" for each in served)
    for each in served:
        each.close()


def test_what_is_loopback_is_reached_from_here_alone() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.7", "no-such-name.invalid", "")))
    assert link_of("::1", 8421, None) == "http://[::1]:8421/"
    listening = listen("localhost", 0)
    listening.close()
