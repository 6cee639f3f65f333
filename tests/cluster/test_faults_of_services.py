"""MLflow away or restarting, storage full or damaged, trainings that fail: results are safe, and messages are clear."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import environment, numbers, run_launch, run_module, start_launch, until, write_space
from tests.support.mlflow_server import Server

EPOCHS = 4
LOCAL = ("--local", "--cpus-per-trial", "1")

# Beside the space: holds every checkpoint from some epoch on until the test lets it go.
GATE = """\
import pathlib, time
from ablate.storage import checkpoints
here = pathlib.Path(__file__).parent
original = checkpoints.save_state
def gated(state):
    while (here / f"hold-{state.epoch}").exists():
        time.sleep(0.01)
    return original(state)
checkpoints.save_state = gated
from ablate.launch import session as launching
launching.CLOSE_S = 240.0  # however busy the machine is
"""

IMPATIENT = "launching.CLOSE_S = 5.0  # not a minute, of a server that stays away\n"

# Beside the space: the disk is full for checkpoints of this epoch on while `full` lies there.
FULL = """\
import errno, os, pathlib
from ablate.storage import files
here = pathlib.Path(__file__).parent
original = files.LocalFiles.write
fsync = os.fsync
def write(self, path, content):
    name = path.rpartition('/')[2]
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")
    if "checkpoint-000003" <= name < "d" and (here / "full").exists():
        os.fsync = full
    try:
        return original(self, path, content)
    finally:
        os.fsync = fsync
files.LocalFiles.write = write
"""

BROKEN = """\
from torch import nn
from ablate.learning.models import build_network, register_network
@register_network("broken")
def broken(spec, num_classes, image_size):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 4, 3)
            self.bn1 = nn.BatchNorm2d(4)
            self.linear = nn.Linear(4, num_classes)
        def forward(self, images):
            if self.training:
                raise RuntimeError("the broken network broke")
            return self.linear(self.bn1(self.conv1(images)).mean((2, 3)))
    return Broken()
"""


def space_in(folder: Path, epochs: int = EPOCHS) -> Path:
    return write_space(folder, epochs=epochs, attacks="natural, gn, fgsm")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    run_launch(folder, "--space", str(space_in(folder)), *LOCAL, "--no-tracking")
    return numbers(folder / "storage")


@pytest.fixture
def server(tmp_path: Path, template: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(template, folder / "server.db")
    server = Server(folder)
    server.start()
    yield server
    server.stop()


class Tracked:
    """A launch that tells a server, and holds its trainings at epochs."""

    def __init__(self, folder: Path, server: Server, *hold: int, more: str = "") -> None:
        self.folder = folder
        (folder / "gate.py").write_text(GATE + more)
        for epoch in hold:
            (folder / f"hold-{epoch}").touch()
        self.out = folder / "out.txt"
        space = str(space_in(folder))
        # Four tries a call, and short waits between them, as the server will be killed.
        env = environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1", MLFLOW_HTTP_REQUEST_TIMEOUT="5")
        arguments = ("--space", space, *LOCAL, "--tracking-uri", server.uri, "--import", "gate")
        self.process = start_launch(folder, *arguments, out=self.out, env=env)

    def release(self, epoch: int) -> None:
        (self.folder / f"hold-{epoch}").unlink()

    def stored(self, epoch: int) -> list[Path]:
        return list((self.folder / "storage").glob(f"*/attempts/*/checkpoint-{epoch:06d}-*"))


def curves(server: Server) -> dict[str, list[tuple[int, int, float]]]:
    """Every training's loss as the server has it: (step, timestamp, value) in their order."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=server.uri)
    experiment = client.get_experiment_by_name("training")
    if experiment is None:
        return {}
    found = {}
    for run in client.search_runs([experiment.experiment_id]):
        history = client.get_metric_history(run.info.run_id, "train/loss")
        points = [(metric.step, metric.timestamp, metric.value) for metric in history]
        found[run.data.tags["ablate.training_key"]] = sorted(points)
    return found


def stored_curves(folder: Path) -> dict[str, list[tuple[int, int, float]]]:
    from ablate.storage.storage import Storage

    storage = Storage(str(folder / "storage"))
    return {
        key: [
            (entry["epoch"], entry["timestamp_ms"], entry["metrics"]["train/loss"])
            for entry in storage.history(key)
            if "train/loss" in entry["metrics"]
        ]
        for key in storage.keys()  # noqa: SIM118 - a method of ours
    }


def test_metrics_of_the_time_the_server_was_away_arrive_once_and_in_order(tmp_path: Path, server: Server) -> None:
    launch = Tracked(tmp_path, server, 2, EPOCHS)
    until(lambda: any(curves(server).values()), what="the first epoch at the server")
    server.stop()
    launch.release(2)
    until(lambda: launch.stored(3), what="epochs without a server")
    server.start()
    launch.release(EPOCHS)
    assert launch.process.wait(240) == 0, launch.out.read_text()
    expected = stored_curves(tmp_path)
    assert len(expected) == 2
    assert all(len(points) == EPOCHS for points in expected.values())
    assert curves(server) == expected


def test_a_server_that_stays_away_costs_no_result_and_one_command_uploads_them(
    tmp_path: Path, server: Server, whole: dict[str, Any]
) -> None:
    launch = Tracked(tmp_path, server, 2, more=IMPATIENT)
    until(lambda: any(curves(server).values()), what="the first epoch at the server")
    server.stop()
    launch.release(2)
    assert launch.process.wait(240) == 0, launch.out.read_text()
    text = launch.out.read_text()
    assert "Traceback" not in text
    assert "safe in storage" in text
    assert numbers(tmp_path / "storage") == whole
    (line,) = {line.strip() for line in text.splitlines() if "ablate.report --sync" in line}
    upload = shlex.split(line[line.index("python -m") :])
    server.start()
    run_module(upload[2], tmp_path, *upload[3:])
    assert curves(server) == stored_curves(tmp_path)


def test_sigterm_ends_within_30_s_also_without_a_server(tmp_path: Path, server: Server) -> None:
    launch = Tracked(tmp_path, server, 2)
    until(lambda: any(curves(server).values()), what="the first epoch at the server")
    server.stop()
    launch.process.send_signal(signal.SIGTERM)
    assert launch.process.wait(30) == 130, launch.out.read_text()
    assert "Traceback" not in launch.out.read_text()


def test_a_killed_launch_goes_on_in_the_same_runs(tmp_path: Path, template: Path) -> None:
    shutil.copy(template, tmp_path / "mlflow.db")
    space = str(space_in(tmp_path))
    (tmp_path / "gate.py").write_text(GATE)
    (tmp_path / "hold-3").touch()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    arguments = ("--space", space, *LOCAL, "--tracking-uri", uri, "--import", "gate")
    process = start_launch(tmp_path, *arguments)
    storage = tmp_path / "storage"
    until(lambda: list(storage.glob("*/attempts/*/checkpoint-000002-*")), what="the second epoch")
    until(lambda: _runs(uri), what="a run")
    process.kill_group()
    before = _runs(uri)
    (tmp_path / "hold-3").unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run_launch(elsewhere, "--space", space, *LOCAL, "--tracking-uri", uri, "--storage", str(storage))
    after = _runs(uri)
    assert before.items() <= after.items()
    assert len(after) == 2


def _runs(uri: str) -> dict[str, str]:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    path = Path(uri.removeprefix("sqlite:///"))
    if not path.exists():
        return {}
    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("training")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
    except MlflowException:  # being made in this moment
        return {}
    return {run.data.tags["ablate.training_key"]: run.info.run_id for run in runs}


@pytest.fixture(params=["refused by the system", "a small disk"])
def storage_that_fills(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Storage without room for the third epoch while `full` lies beside the space."""
    folder = tmp_path / "storage"
    if request.param == "refused by the system":
        (tmp_path / "full").touch()
        (tmp_path / "disk.py").write_text(FULL)
        yield folder
        return
    (tmp_path / "disk.py").write_text("")
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=420k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def make_room(folder: Path) -> None:
    (folder / "full").unlink(missing_ok=True)
    subprocess.run(["mount", "-o", "remount,size=100m", str(folder / "storage")], capture_output=True)


def test_storage_that_fills_up_keeps_the_checkpoint_before_and_goes_on_with_room(
    tmp_path: Path, storage_that_fills: Path, whole: dict[str, Any]
) -> None:
    arguments = (
        "--space",
        str(space_in(tmp_path)),
        *LOCAL,
        "--no-tracking",
        "--import",
        "disk",
    )
    text = run_launch(tmp_path, *arguments, expect=1)
    assert "No space left on device" in text
    assert "with room for" in text and "interrupted" in text and "--retry-failed" not in text
    assert "Traceback" not in text
    assert not list(storage_that_fills.rglob(".tmp-*"))
    make_room(tmp_path)
    text = run_launch(tmp_path, *arguments)  # the same command
    assert "continue" in text or "from epoch" in text
    assert numbers(storage_that_fills) == whole


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a launch that was killed with two epochs in storage."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "gate.py").write_text(GATE)
    (folder / "hold-3").touch()
    space = space_in(folder)
    process = start_launch(folder, "--space", str(space), *LOCAL, "--no-tracking", "--import", "gate")
    manifests = "*/attempts/*/manifest-*.json"
    until(
        lambda: any(rb"checkpoint-000002" in path.read_bytes() for path in (folder / "storage").glob(manifests)),
        what="the second epoch",
    )
    process.kill_group()
    return folder


@pytest.mark.parametrize("damage", ["cut short", "corrupted"])  # more ways in tests/storage/test_storage.py
def test_a_damaged_checkpoint_is_passed_over_with_a_clear_message(
    tmp_path: Path, damage: str, killed: Path, whole: dict[str, Any]
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    storage = tmp_path / "storage"
    (newest,) = storage.glob("*/attempts/*/checkpoint-000002-*")
    content = newest.read_bytes()
    newest.write_bytes(content[:-100] if damage == "cut short" else content[:-100] + bytes(100))
    text = run_launch(tmp_path, "--space", str(tmp_path / "tiny.yaml"), *LOCAL, "--no-tracking")
    assert numbers(storage) == whole
    assert "expected the whole checkpoint of epoch 2, got a damaged" in " ".join(text.split())


def test_a_training_that_yields_nan_or_raises_is_marked_the_others_finish_and_only_retry_tries_again(
    tmp_path: Path, template: Path
) -> None:
    shutil.copy(template, tmp_path / "mlflow.db")
    (tmp_path / "broken.py").write_text(BROKEN)
    space = space_in(tmp_path, epochs=1)
    more = (
        "{label: boundless, set: {training.learning_rate: 1.0e+30}}",
        "{label: raising, set: {model.arch: broken, model.depth: null}}",
    )
    space.write_text(space.read_text() + "".join(f"  - {row}\n" for row in more))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    arguments = ("--space", str(space), *LOCAL, "--tracking-uri", uri, "--import", "broken")
    text = run_launch(tmp_path, *arguments, expect=1)
    assert "Traceback" not in text
    assert "nan" in text or "inf" in text
    assert "RuntimeError: the broken network broke" in text
    attempts = sorted((tmp_path / "storage").glob("*/attempts/*"))
    assert len(attempts) == 4
    reasons = _reasons(uri)
    assert sum("broken network" in reason for reason in reasons) == 1
    assert sum("nan" in reason or "inf" in reason for reason in reasons) == 1
    plan = json.loads(run_launch(tmp_path, *arguments, "--dry-run", "--json"))
    assert sorted(training["action"] for training in plan["trainings"].values()) == [
        "failed",
        "failed",
        "reuse",
        "reuse",
    ]
    text = run_launch(tmp_path, *arguments, expect=1)
    assert "the broken network broke" in text
    assert "--retry-failed" in text
    assert sorted((tmp_path / "storage").glob("*/attempts/*")) == attempts
    run_launch(tmp_path, *arguments, "--retry-failed", "--no-tracking", expect=1)
    assert len(list((tmp_path / "storage").glob("*/attempts/*"))) == 6


def _reasons(uri: str) -> list[str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("training")
    assert experiment is not None
    failed = [run for run in client.search_runs([experiment.experiment_id]) if run.info.status == "FAILED"]
    return [" ".join(run.data.tags.values()) for run in failed]
