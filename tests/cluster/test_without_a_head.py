"""Ray's head is killed: the launch ends in order, in a line of its own, and the same command goes on."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.helpers import run_launch, write_space
from tests.support.ray_cluster import Launch, RayCluster


def test_a_launch_whose_head_is_killed_ends_in_order(tmp_path: Path, on_cluster: RayCluster) -> None:
    arguments = ("--space", str(write_space(tmp_path, epochs=2, attacks="natural, gn, fgsm")), "--no-tracking")
    launch = Launch(tmp_path, *arguments, hold=["measuring"])
    launch.at("measuring", 1)
    on_cluster.kill_head()
    text = launch.ends_with(130)  # Ray itself would have ended it later, with another code and other words
    launch.release("measuring")
    assert text.count("Ray's head at") == 1
    assert "the same command goes on" in text
    assert not re.search(r"rpc_client|Traceback|\.cc:\d+", text)
    text = run_launch(tmp_path, *arguments, "--local", "--cpus-per-trial", "1")
    assert "continue" in text  # what was trained is not trained again
