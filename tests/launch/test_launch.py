"""The command line: bad input, the plan, a local run and its resume."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ablate.execution.base import Outcome, Task
from ablate.launch.__main__ import app
from ablate.launch.request import Request
from tests.support.helpers import command, environment, numbers, run_launch, start_launch, until, write_space
from tests.support.tasks import have_tasks_run_by, what_runs_tasks

LOCAL = ("--local", "--no-tracking", "--cpus-per-trial", "1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--space", "batch_sise"], ["batch_sise", "did you mean 'batch_size'?"]),
        (["--space", "batch_size", "--preset", "smok"], ["did you mean 'smoke'?"]),
        (["--space", "batch_size", "--set", "training.epoch=3"], ["--set", "did you mean 'training.epochs'?"]),
        (["--space", "batch_size", "--set", "training.epochs=many"], ["training.epochs", "whole number", "'many'"]),
        (["--space", "batch_size", "--set", "training.epochs"], ["path=value"]),
        (["--space", "batch_size", "--seeds", "0,zero"], ["--seeds", "0,zero"]),
        (["--space", "batch_size", "--seeds", "1,1"], ["--seeds", "distinct"]),
        (["--space", "batch_size", "--import", "no_such_module"], ["--import no_such_module"]),
        (["--space", "batch_size", "--row", "2566"], ["--row", "did you mean '256'?"]),
        (["--space", "nowhere/tiny.yaml"], ["nowhere/tiny.yaml"]),
        (["--space", "batch_size", "--preset", "smoke", "--set", "data.name=imagefolder"], ["data.root"]),
        (["--space", "batch_size", "--preset", "reduced"], ["reduced_images.py", "--set data.root="]),
        (["--space", "batch_size", "--preset", "smoke", "--set", "training.batch_size=4096"], ["batch_size", "4096"]),
        (["--space", "batch_size", "--preset", "smoke", "--set", "model.arch=resnet21"], ["resnet20"]),
        (["--space", "batch_size", "--preset", "smoke", "--set", "measurement.attacks=[pgd21]"], ["pgd20"]),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    tmp_path: Path, arguments: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*arguments, "--dry-run"])
    output = done.output
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in output
    assert "expected" in output
    for word in words:
        assert word in output
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_the_same_message_from_a_shell(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--space", "batch_sise", "--dry-run"), cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "did you mean 'batch_size'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    space = write_space(tmp_path)
    output = run_launch(tmp_path, "--space", str(space), *LOCAL, "--storage", "file/storage", expect=2)
    assert "Traceback" not in output
    assert "--storage" in output


def test_dry_run_shows_what_rows_share(tmp_path: Path) -> None:
    space = write_space(tmp_path)
    plan = json.loads(run_launch(tmp_path, "--space", str(space), "--dry-run", "--json"))
    assert len(plan["trials"]) == 3
    assert len(plan["trainings"]) == 2
    assert {training["action"] for training in plan["trainings"].values()} == {"train"}
    one = json.loads(run_launch(tmp_path, "--space", str(space), "--row", "large", "--dry-run", "--json"))
    assert len(one["trials"]) == 1 and set(one["trainings"]) < set(plan["trainings"])
    text = run_launch(tmp_path, "--space", str(space), "--dry-run")
    assert "large again" in text
    assert list(tmp_path.iterdir()) == [space]


def test_killed_in_the_middle_the_same_command_gives_the_same_bits(tmp_path: Path) -> None:
    """The whole process group dies after an epoch; the second launch reuses, continues, and ends with equal numbers."""
    space = write_space(tmp_path, epochs=3)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    arguments = ("--space", str(space), *LOCAL)
    run_launch(tmp_path, *arguments, "--storage", str(whole))
    process = start_launch(tmp_path, *arguments, "--storage", str(cut))
    until(lambda: list(cut.glob("*/attempts/*/checkpoint-000002-*")), what="the second epoch's checkpoint")
    process.kill_group()
    before = {path: path.stat().st_mtime_ns for path in cut.glob("*/attempts/*/checkpoint-*")}
    output = run_launch(tmp_path, *arguments, "--storage", str(cut))
    assert "continue" in output
    assert numbers(cut) == numbers(whole)
    assert before
    again = run_launch(tmp_path, *arguments, "--storage", str(cut))
    assert "reuse" in again
    assert len(list(cut.glob("*/attempts/*"))) == 3  # two trainings, one of them in two attempts


def test_a_damaged_record_is_named_and_measured_again(tmp_path: Path) -> None:
    arguments = ("--space", str(write_space(tmp_path)), *LOCAL)
    run_launch(tmp_path, *arguments)
    whole = numbers(tmp_path / "storage")
    record = next((tmp_path / "storage").glob("*/attempts/*/record-*"))
    record.write_bytes(record.read_bytes()[:-20])
    output = run_launch(tmp_path, *arguments)
    assert "got a damaged" in " ".join(output.split())
    assert numbers(tmp_path / "storage") == whole


def test_a_training_that_fails_is_named_and_tried_again_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from ablate.launch import session as module

    space = write_space(tmp_path, epochs=1)
    options = module.Options(
        space=[str(space)], storage=str(tmp_path / "storage"), tracking=False, local=True, cpus_per_trial=1
    )
    ran: list[str] = []
    fail = True

    def run(task: Task, dataset: Any, listen: Any) -> Outcome:
        ran.append(task.key)
        if fail and task.spec.training.learning_rate == 0.05:
            return Outcome(task.key, "failed", "the loss became nan in epoch 1")
        return original(task, dataset, listen)

    original = what_runs_tasks()
    have_tasks_run_by(run, monkeypatch)
    out = Console(record=True, width=120)
    assert module.launch(Request.read(options), out) == 1
    assert len(ran) == 2  # the other training finished all the same
    assert "nan in epoch 1" in out.export_text()
    assert module.launch(Request.read(options), Console(record=True, width=120)) == 1
    assert len(ran) == 2
    fail = False
    options.retry_failed = True
    assert module.launch(Request.read(options), Console(record=True, width=120)) == 0
    assert len(ran) == 3
