"""Trainings on real Ray processes: the same numbers as in one process, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import command, environment, kill_group, numbers, run_launch, until, write_space

RAY = ("--no-tracking", "--cpus-per-trial", "1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of an uninterrupted run in one process."""
    folder = tmp_path_factory.mktemp("whole")
    run_launch(folder, "--space", str(write_space(folder, epochs=4)), *RAY, "--local")
    return numbers(folder / "storage")


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("--space", str(write_space(folder, epochs=4)), *RAY),
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stdout=(folder / "out.txt").open("wb"),
        stderr=subprocess.STDOUT,
    )


def worker_of(folder: Path) -> int:
    """The process id of a worker that is training into this folder."""

    def find() -> int | None:
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                name = (entry / "cmdline").read_bytes()
                if b"ray::" in name and (entry / "environ").exists():
                    return int(entry.name) if b"_trainable" in name or b"ImplicitFunc" in name else None
            except OSError:
                continue
        return None

    return int(until(find, what="a Ray worker"))


def checkpoints(folder: Path, epoch: int) -> list[Path]:
    return list((folder / "storage").glob(f"*/attempts/*/checkpoint-{epoch:06d}-*"))


def test_ray_gives_the_numbers_of_one_process(tmp_path: Path, on_cluster: Any, whole: dict[str, Any]) -> None:
    process = start(tmp_path)
    assert process.wait() == 0, (tmp_path / "out.txt").read_text()
    assert numbers(tmp_path / "storage") == whole
    text = (tmp_path / "out.txt").read_text()
    assert "\x1b[" not in text  # no terminal, no escape codes
    assert "ray" not in text.lower().replace("array", "")


def test_a_killed_worker_continues_from_its_checkpoint(tmp_path: Path, on_cluster: Any, whole: dict[str, Any]) -> None:
    process = start(tmp_path)
    until(lambda: checkpoints(tmp_path, 1), what="the first epoch")
    os.kill(worker_of(tmp_path), signal.SIGKILL)
    assert process.wait() == 0, (tmp_path / "out.txt").read_text()
    assert numbers(tmp_path / "storage") == whole
    assert len(list((tmp_path / "storage").glob("*/attempts/*"))) == 3


def test_a_killed_driver_is_taken_up_by_the_same_command(
    tmp_path: Path, on_cluster: Any, whole: dict[str, Any]
) -> None:
    process = start(tmp_path)
    until(lambda: checkpoints(tmp_path, 2), what="the second epoch")
    kill_group(process)
    process = start(tmp_path)
    assert process.wait() == 0, (tmp_path / "out.txt").read_text()
    assert numbers(tmp_path / "storage") == whole


def test_sigterm_ends_in_order(tmp_path: Path, on_cluster: Any, whole: dict[str, Any]) -> None:
    process = start(tmp_path)
    until(lambda: checkpoints(tmp_path, 1), what="the first epoch")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 130
    assert "same command" in (tmp_path / "out.txt").read_text()
    process = start(tmp_path)
    assert process.wait() == 0, (tmp_path / "out.txt").read_text()
    assert numbers(tmp_path / "storage") == whole
