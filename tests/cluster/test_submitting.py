"""A launch as a job on a real cluster with token authentication."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import command, environment, numbers, run_launch, start_launch, until, write_space
from tests.support.launches import Process
from tests.support.ray_cluster import RayCluster

# What rides along under `--import`: it holds the job, by a file whose path the space's title cannot carry.
HOLD = """\
import os, pathlib, time
from ablate.storage import checkpoints
hold = pathlib.Path({hold!r})
original = checkpoints.save_state
def held(state):
    while state.epoch == 2 and hold.exists():
        hold.with_name("at").touch()
        time.sleep(0.01)
    return original(state)
checkpoints.save_state = held
"""


def start(folder: Path, cluster: RayCluster, *more: str) -> Process:
    out = folder / f"out-{time.monotonic_ns()}.txt"
    return start_launch(folder, *arguments_of(folder, cluster), *more, out=out)


def arguments_of(folder: Path, cluster: RayCluster) -> Sequence[str]:
    shared = ("--storage", str(folder / "storage"), "--storage-is-shared", "--no-tracking", "--cpus-per-trial", "1")
    return "--space", "tiny.yaml", "--cluster", cluster.job_server, *shared


def text_of(folder: Path) -> str:
    return max(folder.glob("out-*.txt")).read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    write_space(tmp_path, epochs=3, attacks="natural, gn, fgsm")
    (tmp_path / "mine.py").write_text(HOLD.format(hold=str(tmp_path / "hold")))
    return tmp_path


def test_a_job_is_left_found_again_and_gives_its_exit_code_and_the_same_numbers(
    folder: Path, ray_cluster: RayCluster
) -> None:
    (folder / "hold").touch()
    (folder / "mlflow.db").write_text("stays here")
    first = start(folder, ray_cluster, "--import", "mine")
    until(lambda: (folder / "at").exists() or first.poll() is not None, what="the job's second epoch")
    assert first.poll() is None, text_of(folder)
    until(lambda: "starts at epoch 0" in text_of(folder), what="the job's lines")
    first.send_signal(signal.SIGINT)
    assert first.wait(30) == 130
    assert "the job goes on" in text_of(folder)
    again = start(folder, ray_cluster, "--import", "mine")
    until(lambda: "is running already" in text_of(folder), what="the job to be found")
    (folder / "hold").unlink()
    assert again.wait(240) == 0, text_of(folder)
    text = text_of(folder)
    assert "finished" in text
    assert "\x1b[" not in text
    run_launch(
        folder, "--space", "tiny.yaml", "--no-tracking", "--local", "--cpus-per-trial", "1", "--storage", "whole"
    )
    assert numbers(folder / "storage") == numbers(folder / "whole")
    assert _jobs(ray_cluster, text)[-1].metadata["ablate.storage"] == str(folder / "storage")


def test_a_failed_training_and_a_wrong_setting_come_back_as_exit_codes(
    folder: Path, ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.py").write_text(
        "from ablate.storage import checkpoints\ndef save_state(state): raise RuntimeError('broken')\n"
        "checkpoints.save_state = save_state\n"
    )
    process = start(folder, ray_cluster, "--import", "mine")
    assert process.wait(240) == 1, text_of(folder)
    assert "RuntimeError: broken" in text_of(folder)
    blocked = folder / "blocked"
    blocked.write_text("")
    process = start(folder, ray_cluster, "--storage", str(blocked / "storage"))
    assert process.wait(240) == 2, text_of(folder)
    assert "--storage" in text_of(folder)


def test_a_wrong_token_is_one_message(folder: Path, ray_cluster: RayCluster) -> None:
    (folder / "wrong").touch(mode=0o600)
    (folder / "wrong").write_text("f" * 64)
    done = subprocess.run(
        command(*arguments_of(folder, ray_cluster)),
        cwd=folder,
        env=environment(RAY_AUTH_TOKEN_PATH=str(folder / "wrong")),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 2
    assert "RAY_AUTH_TOKEN_PATH" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ffff" not in done.stderr + done.stdout


def _jobs(cluster: RayCluster, text: str) -> list[Any]:
    from ray.job_submission import JobSubmissionClient

    plan = text.split("ablate-")[1].split("-")[0]
    found = [job for job in JobSubmissionClient(cluster.job_server).list_jobs() if plan in (job.submission_id or "")]
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
    assert token not in repr(found)
    return found
