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


def running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def attempts(storage: Path) -> int:
    return len(list(storage.glob("*/attempts/*")))


def test_workers_and_a_node_killed_at_every_stage_go_on_from_their_checkpoints(
    tmp_path: Path, on_cluster: RayCluster, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL both workers in mid-epoch, half way through a checkpoint, before its manifest, and while measuring.

    Before the manifest they go with their node, and the trainings go to the other one.
    """
    launch = Launch(tmp_path, *space_in(tmp_path), "--max-failures", "8", hold=POINTS)
    storage, took = tmp_path / "storage", list[str]()
    for turn, point in enumerate(POINTS):
        workers = launch.at(point, 2)
        assert attempts(storage) == 2 * (turn + 1)
        if point == "committing":
            (lost,) = on_cluster.nodes
            on_cluster.add_node()
            killed = time.monotonic()
            on_cluster.lose_node(lost)
            # They end once they notice that their node is gone; let go before that, they would commit.
            until(lambda workers=workers: not any(map(running, workers)), what="the end of the lost node's workers")
        else:
            killed = time.monotonic()
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
        launch.release(point)
        until(lambda turn=turn: attempts(storage) == 2 * (turn + 2), what=f"new attempts after {point}")
        took.append(f"killed at {point}: both trainings went on after {time.monotonic() - killed:.1f} s")
    text = launch.ends_with(0)
    with capsys.disabled():
        print("", *took, sep="\n")
    assert numbers(storage) == whole
    assert "started again" in text
    assert "Traceback" not in text
    assert "\x1b[" not in text


def test_a_launch_ends_in_order_within_30_s_and_a_killed_one_is_taken_up_from_another_folder(
    tmp_path: Path, on_cluster: RayCluster, whole: dict[str, Any]
) -> None:
    """SIGTERM in mid-epoch, the same command again, kill -9 while it measures, and the same from elsewhere."""
    storage = tmp_path / "storage"
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    launch = Launch(first, *space_in(first), "--storage", str(storage), hold=["training", "measuring"])
    launch.at("training", 2)
    launch.process.send_signal(signal.SIGTERM)
    text = launch.ends_with(130, timeout_s=30)
    assert "same command" in text
    launch.release("training")
    launch = Launch(first, *space_in(first), "--storage", str(storage), hold=["measuring"])
    launch.at("measuring", 1)
    launch.process.kill_group()
    launch.release("measuring")
    text = Launch(second, *space_in(second), "--storage", str(storage)).ends_with(0)
    assert "train" not in text.splitlines()
    assert numbers(storage) == whole


def test_two_undisturbed_launches_at_once_train_each_key_once_to_the_numbers_of_one_process(
    tmp_path: Path, on_cluster: RayCluster, whole: dict[str, Any]
) -> None:
    storage = tmp_path / "storage"
    folders = [tmp_path / "first", tmp_path / "second"]
    launches = []
    for folder in folders:
        folder.mkdir()
        arguments = (*space_in(folder), "--storage", str(storage), "--max-concurrent", "1")
        launches.append(Launch(folder, *arguments, hold=["training"]))
    for launch in launches:
        launch.at("training", 1)  # each one of the two: they share the work
    for launch in launches:
        launch.release("training")
    for launch in launches:
        text = launch.ends_with(0)
        assert "\x1b[" not in text  # no terminal, no escape codes
        assert not re.search(r"\bray\b", text, re.IGNORECASE)
    assert attempts(storage) == 2
    assert numbers(storage) == whole
