"""The command as a user starts it, in this process; and bundles that were changed."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from ablate.bundle.__main__ import app
from ablate.storage.bundles import CHECKSUMS, write_bundle


def run(*arguments: object) -> tuple[int, str]:
    """Its exit code, and everything it printed."""
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=True)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output.replace("\n", " ")


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist() if name != CHECKSUMS}


def changed(path: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A bundle of other contents, with checksums that hold."""
    found = contents(path)
    change(found)
    write_bundle(target, found.items())
    return target


def sums(found: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in found.items()).encode()
