"""Whatever is killed, the numbers are those of an uninterrupted run, and nothing is trained twice."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import numbers, run_launch, until, write_space
from tests.support.ray_cluster import Launch, RayCluster

EPOCHS = 4
POINTS = ("training", "checkpointing", "committing", "measuring")  # of tests/support/faults.py


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of an uninterrupted run in one process."""
    folder = tmp_path_factory.mktemp("whole")
    space = write_space(folder, epochs=EPOCHS)
    run_launch(folder, "--space", str(space), "--no-tracking", "--local", "--cpus-per-trial", "1")
    return numbers(folder / "storage")


def space_in(folder: Path) -> tuple[str, ...]:
    return ("--space", str(write_space(folder, epochs=EPOCHS)), "--no-tracking")


def attempts(storage: Path) -> int:
    return len(list(storage.glob("*/attempts/*")))


def test_undisturbed_ray_gives_the_numbers_of_one_process(
    tmp_path: Path, on_cluster: RayCluster, whole: dict[str, Any]
) -> None:
    text = Launch(tmp_path, *space_in(tmp_path)).ends_with(0)
    assert numbers(tmp_path / "storage") == whole
    assert "\x1b[" not in text  # no terminal, no escape codes
    assert not re.search(r"\bray\b", text, re.IGNORECASE)


def test_workers_killed_at_every_stage_continue_from_their_checkpoints(
    tmp_path: Path, on_cluster: RayCluster, whole: dict[str, Any]
) -> None:
    """SIGKILL both workers in mid-epoch, half way through a checkpoint, before its manifest, and while measuring."""
    launch = Launch(tmp_path, *space_in(tmp_path), "--max-failures", "8", hold=POINTS)
    storage = tmp_path / "storage"
    for turn, point in enumerate(POINTS):
        workers = launch.at(point, 2)
        assert attempts(storage) == 2 * (turn + 1)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        killed = time.monotonic()
        launch.release(point)
        until(lambda turn=turn: attempts(storage) == 2 * (turn + 2), what=f"new attempts after {point}")
        print(f"killed at {point}: both trainings went on after {time.monotonic() - killed:.1f} s")
    text = launch.ends_with(0)
    assert numbers(storage) == whole
    assert "started again" in text
    assert "Traceback" not in text
    assert "\x1b[" not in text


def test_a_killed_driver_is_taken_up_from_another_folder(
    tmp_path: Path, on_cluster: RayCluster, whole: dict[str, Any]
) -> None:
    storage = tmp_path / "storage"
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    launch = Launch(first, *space_in(first), "--storage", str(storage), hold=["measuring"])
    launch.at("measuring", 1)
    launch.process.kill_group()
    launch.release("measuring")
    text = Launch(second, *space_in(second), "--storage", str(storage)).ends_with(0)
    assert "train" not in text.splitlines()
    assert numbers(storage) == whole


def test_two_launches_at_once_train_each_key_once(
    tmp_path: Path, on_cluster: RayCluster, whole: dict[str, Any]
) -> None:
    storage = tmp_path / "storage"
    folders = [tmp_path / "first", tmp_path / "second"]
    launches = []
    for folder in folders:
        folder.mkdir()
        launches.append(Launch(folder, *space_in(folder), "--storage", str(storage), "--max-concurrent", "1"))
    for launch in launches:
        launch.ends_with(0)
    assert attempts(storage) == 2
    assert numbers(storage) == whole


def test_sigterm_ends_in_order_within_30_s(tmp_path: Path, on_cluster: RayCluster, whole: dict[str, Any]) -> None:
    launch = Launch(tmp_path, *space_in(tmp_path), hold=["training"])
    launch.at("training", 2)
    launch.process.send_signal(signal.SIGTERM)
    text = launch.ends_with(130, timeout_s=30)
    assert "same command" in text
    launch.release("training")
    Launch(tmp_path, *space_in(tmp_path)).ends_with(0)
    assert numbers(tmp_path / "storage") == whole


def test_a_lost_node_hands_its_trainings_to_the_other(
    tmp_path: Path, on_cluster: RayCluster, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    launch = Launch(tmp_path, *space_in(tmp_path), "--max-failures", "8", hold=["training"])
    storage = tmp_path / "storage"
    launch.at("training", 2)
    (lost,) = on_cluster.nodes
    on_cluster.add_node()
    before = time.monotonic()
    on_cluster.lose_node(lost)
    launch.release("training")
    until(lambda: "continues" in launch.text() or attempts(storage) > 2, what="the loss to be noticed")
    noticed = time.monotonic() - before
    launch.ends_with(0)
    with capsys.disabled():
        done = time.monotonic() - before
        print(f"\na node was lost: its trainings went on after {noticed:.1f} s, all done after {done:.1f} s")
    assert numbers(storage) == whole
