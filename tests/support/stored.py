"""Trainings as attempts leave them in storage, of no network, and what can happen to their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ablate.storage.attempts import Attempt
from ablate.storage.storage import Storage

KEY = "ab" * 10
MEASUREMENT = "cd" * 10


def history(epochs: int) -> list[dict[str, Any]]:
    return [{"epoch": n, "timestamp_ms": 1000 + n, "metrics": {"train/loss": 1 / (n + 1)}} for n in range(epochs + 1)]


def trained(storage: Storage, epochs: int, *, finished: bool = False) -> Attempt:
    attempt = storage.attempt(KEY)
    for epoch in range(epochs + 1):
        attempt.save_checkpoint(
            epoch, f"checkpoint {epoch}".encode(), history(epoch), finished=finished and epoch == epochs
        )
    return attempt


def folder(storage: Storage, attempt: Attempt) -> Path:
    return Path(storage.location) / KEY / "attempts" / attempt.name


def content(storage: Storage, but: str = "") -> dict[str, bytes]:
    """Every file of a storage by its path in it, but those that begin with something."""
    files = (path for path in Path(storage.location).rglob("*") if path.is_file())
    found = {str(path.relative_to(storage.location)): path.read_bytes() for path in files}
    return {name: text for name, text in found.items() if not (but and name.startswith(but))}


def one(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[-1]


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"?" + content[len(content) // 2 + 1 :])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


HARMS = pytest.mark.parametrize("harm", [damage, cut, empty, Path.unlink], ids=["damaged", "cut", "empty", "gone"])
