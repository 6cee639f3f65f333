"""Ray's head is killed: the launch ends in order, in a line of its own, and the same command goes on."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.support.helpers import run_launch, write_space
from tests.support.ray_cluster import Launch, started


def test_a_launch_whose_head_is_killed_ends_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--space", str(write_space(tmp_path, epochs=2)), "--no-tracking")
    with started(tmp_path / "token") as cluster:  # of its own: it is not to be used after this
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        launch = Launch(tmp_path, *arguments, hold=["measuring"])
        launch.at("measuring", 1)
        for processes in cluster.cluster.head_node.all_processes.values():
            for each in processes:
                os.kill(each.process.pid, signal.SIGKILL)
        text = launch.ends_with(130)  # Ray itself would have ended it later, with another code and other words
    launch.release("measuring")
    assert text.count("Ray's head at") == 1
    assert "the same command goes on" in text
    assert not re.search(r"rpc_client|Traceback|\.cc:\d+", text)
    text = run_launch(tmp_path, *arguments, "--local", "--cpus-per-trial", "1")
    assert "continue" in text  # what was trained is not trained again
