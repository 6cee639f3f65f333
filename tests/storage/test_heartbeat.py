"""Attempts say that they are alive."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from ablate.core.errors import StorageError
from ablate.storage import heartbeat
from ablate.storage.heartbeat import Heartbeat, life
from ablate.storage.storage import Storage


def test_a_sign_of_life_comes_at_once_beside_long_work_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, beats = Storage(str(tmp_path)).files, threading.Semaphore(0)
    write, clock = files.write, iter(range(1000, 10**6))

    def written(path: str, content: bytes) -> None:
        write(path, content)
        beats.release()

    monkeypatch.setattr(files, "write", written)
    monkeypatch.setattr(heartbeat, "now_ms", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt), Heartbeat(files, "alive.json", {"threads": 3}, beat_s=0.001):
        first = life(files, "alive.json")
        for _ in range(3):
            assert beats.acquire(timeout=60)
        raise KeyboardInterrupt
    last = life(files, "alive.json")
    assert first is not None and last is not None and first.on == last.on and first.on.threads == 3
    assert first.began_ms == last.began_ms < first.alive_ms < last.alive_ms
    assert "attempt-alive" not in {thread.name for thread in threading.enumerate()}


def test_storage_that_refuses_a_sign_of_life_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Storage(str(tmp_path)).files

    def refused(path: str, content: bytes) -> None:
        raise StorageError("expected room, got none")

    monkeypatch.setattr(files, "write", refused)
    with Heartbeat(files, "alive.json", {}):
        pass
    assert life(files, "alive.json") is None


def test_nothing_is_said_once_another_launch_has_taken_over(tmp_path: Path) -> None:
    files, ours = Storage(str(tmp_path)).files, [True]
    with Heartbeat(files, "alive.json", {}, lambda: ours[0]):
        said = files.read("alive.json")
        ours[0] = False
    assert said is not None and files.read("alive.json") == said


def test_what_another_version_adds_is_passed_over(tmp_path: Path) -> None:
    files = Storage(str(tmp_path)).files
    files.write("alive.json", json.dumps({"began_ms": 1, "alive_ms": 2, "on": {"device": "cpu"}, "more": 3}).encode())
    found = life(files, "alive.json")
    assert found is not None and (found.began_ms, found.alive_ms) == (1, 2)
