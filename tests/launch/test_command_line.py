"""The command line: help, lists, completion, estimates, watching, and how little it loads."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from ablate import spaces
from ablate.core.errors import UserError
from ablate.launch import completion, session, watch
from ablate.launch.__main__ import arguments as start
from ablate.launch.request import Request
from ablate.launch.session import launch
from ablate.planning import estimates
from ablate.planning.plan import decide
from ablate.planning.plan_file import plan_file_of
from ablate.spaces.specs import ModelSpec
from ablate.storage.leases import Leases
from ablate.storage.speeds import keep
from ablate.storage.storage import Storage
from tests.support.helpers import environment, launch_here, options_of, plan_of, run_launch, write_space

HEAVY = ("torch", "ray", "mlflow", "sklearn", "scipy", "torchvision", "pandas", "matplotlib", "pyarrow", "optuna")


def loaded_by(folder: Path, *arguments: str) -> tuple[int, set[str], str]:
    """Exit code, heavy packages, and output of a command line."""
    code = (
        "import atexit, runpy, sys\n"
        f"atexit.register(lambda: print('LOADED', *sorted(set(sys.modules) & set({HEAVY!r}))))\n"
        f"sys.argv = {['ablate-launch', *arguments]!r}\n"
        "runpy.run_module('ablate.launch', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(COLUMNS="100"), capture_output=True, text=True
    )
    *lines, last = done.stdout.strip().splitlines()
    assert last.startswith("LOADED"), done.stdout + done.stderr
    return done.returncode, set(last.split()[1:]), "\n".join(lines) + done.stderr


def test_help_fits_one_screen_with_examples_and_exit_codes_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code, heavy, text = loaded_by(tmp_path, "--help")
    assert (code, heavy) == (0, set())
    lines = text.splitlines()
    assert 24 <= len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert "Example: " in text and "--space batch_size --preset smoke" in text
    assert "Exit codes: 0 all there, 1 something failed, 2 refused input, 130 interrupted" in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--list",), 0),
        (("--list", "--json"), 0),
        (("--space", "batch_sise"), 2),
        (("--space", "batch_size", "--preset", "x"), 2),
        ((), 2),
    ],
)
def test_lists_and_mistakes_come_before_heavy_imports(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    assert loaded_by(tmp_path, *arguments)[:2] == (code, set())


def test_a_dry_run_on_digits_loads_torch_alone(tmp_path: Path) -> None:
    code, heavy, _ = loaded_by(tmp_path, "--space", str(write_space(tmp_path)), "--dry-run")
    assert (code, heavy) == (0, {"torch"})


def test_list_has_a_line_for_each_space(tmp_path: Path) -> None:
    lines = run_launch(tmp_path, "--list").splitlines()
    assert [line.split()[0] for line in lines] == spaces.space_names()
    assert all(spaces.load_space(line.split()[0]).space.title in line for line in lines)
    listed = json.loads(run_launch(tmp_path, "--list", "--json"))
    assert [space["name"] for space in listed] == spaces.space_names()


def completed(words: str) -> set[str]:
    """What bash is offered, by the protocol of its completion script."""
    code = "from ablate.launch.__main__ import arguments; arguments()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(
            _ABLATE_LAUNCH_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1)
        ),
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split())


def test_the_shell_completes_names_and_paths() -> None:
    assert "batch_size" in completed("ablate-launch --space ba")
    assert completed("ablate-launch --space bat") == {"batch_size"}
    assert completed("ablate-launch --preset sm") == {"smoke"}
    assert completed("ablate-launch --set training.attack.eps") == {"training.attack.eps_255="}


def test_values_complete_where_they_are_named() -> None:
    assert [text for text, _ in completion.settings("model.activation=")] == [
        "model.activation=relu",
        "model.activation=hardtanh",
    ]
    assert [text for text, _ in completion.settings("training.flip=t")] == ["training.flip=true"]
    assert list(completion.settings("training.epochs=")) == []
    offered = [path for path, _ in completion.settings("")]
    assert len(offered) == len(set(offered)) > 40
    overrides = spaces.parse_overrides([text + "1" for text in offered])
    assert {setting.path for setting in overrides} <= set(spaces.setting_paths())


def test_more_work_is_estimated_to_take_longer_and_what_is_there_takes_nothing(tmp_path: Path) -> None:
    write_space(tmp_path, epochs=1)
    storage = Storage(str(tmp_path / "storage"))

    def seconds(*sets: str, preset: str = "paper") -> float:
        plan = plan_of(options_of(tmp_path, sets=list(sets), preset=preset))
        decide(plan, storage)
        return sum(
            estimates.work_flops(training, 1437, 360, 10)
            for training in plan.trainings.values()
            if training.action != "reuse"
        )

    plain = seconds()
    assert seconds("training.epochs=9") > 2.5 * plain
    assert seconds("training.attack.steps=7") > plain
    assert seconds("data.image_size=16") > 2 * plain
    assert seconds("model.width=1") > 2 * plain
    assert seconds("measurement.attacks=[natural]") < plain
    assert seconds("training.attack.name=none") < plain
    assert seconds("data.validation=0.5") < seconds("data.validation=0.5", "training.attack.steps=9")
    assert launch(Request.read(options_of(tmp_path)), Console(file=io.StringIO())) == 0
    assert seconds() == 0
    longer = plan_of(options_of(tmp_path, sets=["training.epochs=3"]))
    decide(longer, storage)
    expected = estimates.estimate(longer, storage)
    assert "by the speed of trainings in storage" in expected.basis
    assert 0 < expected.wall_s < 600
    assert expected.sentence().count("GPU-hours") == 1


def test_dry_run_tells_time_and_gpu_hours(tmp_path: Path) -> None:
    space = write_space(tmp_path)
    text = run_launch(tmp_path, "--space", str(space), "--dry-run")
    assert "estimated time:" in text and "GPU-hours" in text and "core" in text
    plan = json.loads(run_launch(tmp_path, "--space", str(space), "--dry-run", "--json"))
    assert plan["estimate"]["seconds"] > 0
    assert plan["estimate"]["gpu_hours"] >= 0


def make_slow(folder: Path) -> None:
    """Storage that knows by `ablate.bench` how slow this machine is: a thousand operations a second."""
    entry = {"model": ModelSpec().model_dump(mode="json"), "mode": "float32", "flops": 1e3}
    keep(Storage(str(folder / "storage")).files, [entry], "cpu", os.cpu_count() or 1)


def test_a_launch_of_more_than_a_day_is_refused_where_nobody_can_be_asked(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    write_space(tmp_path, epochs=1, attacks="natural, gn, fgsm")
    make_slow(tmp_path)
    there = sorted((tmp_path / "storage").rglob("*"))
    with pytest.raises(UserError, match=r"less than a day on this machine, or --yes; .* by ablate.bench.* No preset"):
        launch(Request.read(options_of(tmp_path)), Console(file=io.StringIO()))
    assert sorted((tmp_path / "storage").rglob("*")) == there
    assert launch(Request.read(options_of(tmp_path, yes=True)), Console(file=io.StringIO())) == 0
    assert session.runs_here(options_of(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    assert not session.runs_here(options_of(tmp_path, local=False))
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert session.runs_here(options_of(tmp_path, local=False))


def test_no_launch_is_refused_by_a_guess(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(estimates, "calibrated_speeds", lambda gpu, batches: dict.fromkeys(batches, 1.0))
    write_space(tmp_path, epochs=1, attacks="natural, gn, fgsm")
    code, text = launch_here(options_of(tmp_path))
    assert code == 0
    text = " ".join(text.split())
    assert "by a quick calibration" in text and "That is a guess, so it starts." in text


def test_a_calibration_counts_the_time_it_had_not_the_time_it_waited(monkeypatch: Any) -> None:
    cpu = {"now": 0.0}

    def step() -> None:
        cpu["now"] += 0.01  # while others have the machine for a hundred times as long

    wall = iter(0.0 + step * 1.0 for step in range(10_000))
    monkeypatch.setattr(estimates, "calibration_step", lambda device, batch: (step, 1e6))
    monkeypatch.setattr(estimates.time, "thread_time", lambda: cpu["now"])
    monkeypatch.setattr(estimates.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(estimates.os, "cpu_count", lambda: 4)
    estimates.measure_core.cache_clear()
    assert estimates.calibrated_speeds(False, [64])[64] == pytest.approx(4 * 1e6 / 0.01)
    assert torch.get_num_threads() == 1
    estimates.measure_core.cache_clear()


def test_a_calibration_is_a_speed_that_a_machine_can_have() -> None:
    threads = torch.get_num_threads()
    assert 1e7 < estimates.calibrated_speeds(False, [64])[64] / (os.cpu_count() or 1) < 1e13
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("load", "busy"), [(0.4, False), (2.9, False), (3.1, True), (60.0, True)])
def test_an_estimate_says_when_the_machine_is_busy(tmp_path: Path, monkeypatch: Any, load: float, busy: bool) -> None:
    monkeypatch.setattr(estimates.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(estimates.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(estimates, "calibrated_speeds", lambda gpu, batches: dict.fromkeys(batches, 1e9))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    write_space(tmp_path, epochs=1)
    _, text = launch_here(options_of(tmp_path, dry_run=True))
    assert (f"other work keeps it busy now (load {load:.0f})" in " ".join(text.split())) == busy


OWN_NETWORK = """\
import torch
from torch import nn
from ablate import register_network

class Network(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.last = nn.Linear(3 * 8 * 8, classes)

    def forward(self, images):
        {line}
        return self.last(images.flatten(1))

@register_network("{name}", depth=True)
def build(model, classes, image_size):
    return Network(classes)
"""


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("misshapen", "images = images[:, :2]", "RuntimeError: "),
        ("picky", "raise KeyError('stage 2')", "KeyError: "),
        ("wordy", "raise ValueError('first line\\nsecond line')", "ValueError: first line"),
    ],
)
def test_a_network_that_fails_is_one_line_and_the_others_train(
    tmp_path: Path, monkeypatch: Any, name: str, line: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"own_{name}"
    (tmp_path / f"{module}.py").write_text(OWN_NETWORK.format(name=name, line=line))
    path = write_space(tmp_path, epochs=1, attacks="natural, gn, fgsm")
    path.write_text(path.read_text().replace("label: small, set: {", f"label: small, set: {{model.arch: {name}, "))
    asked = options_of(tmp_path, imports=[module])
    _, text = launch_here(replace(asked, dry_run=True))
    [told] = [line for line in text.splitlines() if "cannot be estimated" in line]
    assert told.startswith("small: ") and says in told and "second line" not in told
    assert "estimated time:" in text and "Traceback" not in text
    code, text = launch_here(asked)
    assert code == 1
    [failed] = [line for line in text.splitlines() if line.startswith("small: failed: ")]
    assert says in failed and re.search(rf"{module}\.py:1[12]\)", "".join(text.split()))
    assert "large +1: finished" in text and "Traceback" not in text


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gpus_per_trial": 1.0}, "within this machine's"),
        ({"cpus_per_trial": 100_000}, "within this machine's"),
        ({"tracking": True, "tracking_uri": "nowhere"}, "--tracking-uri: expected"),
    ],
)
def test_what_a_launch_refuses_a_dry_run_refuses_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: Any, dry_run: bool, changes: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    write_space(tmp_path, epochs=1)
    before = sorted(tmp_path.rglob("*"))
    asked = options_of(tmp_path, local=False, dry_run=dry_run, yes=True, **changes)
    with pytest.raises(UserError, match=says):
        launch(Request.read(asked), Console(file=io.StringIO()))
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before and path.name != "storage"] == []


def test_an_mlflow_that_does_not_answer_is_told_before_a_plan_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    write_space(tmp_path, epochs=1)
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(UserError):
        launch_here(options_of(tmp_path, tracking=True, tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}"))
    assert not list((tmp_path / "storage").rglob("*.json"))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_dev_null(tmp_path: Path, closed: str) -> None:
    code = (
        "import os, sys; from ablate.core.text import open_closed_streams, open_console; open_closed_streams(); "
        "open_console().print('x'); open_console(sys.stderr).print('y'); sys.stdin.isatty(); "
        "sys.exit(os.open('new', os.O_CREAT | os.O_WRONLY))"
    )
    done = subprocess.run(["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code], cwd=tmp_path, env=environment())
    assert done.returncode >= 3  # the number that a new file gets: none of the three
    assert (tmp_path / "new").read_bytes() == b""


def test_json_alone_on_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    space = write_space(tmp_path, epochs=1)
    with pytest.raises(SystemExit) as ended:
        start(["--space", str(space), "--local", "--no-tracking", "--cpus-per-trial", "1", "--json"])
    done = capfd.readouterr()  # of the process, not of Python alone
    assert ended.value.code in (0, None), done.err
    results = json.loads(done.out)
    assert [trial["state"] for trial in results["trials"]] == ["finished"] * 3
    assert results["trials"][0]["metrics"].keys() == {f"accuracy/{name}" for name in ("natural", "gn", "fgsm", "pgd20")}
    assert "done" in done.err


def test_watching_shows_a_launch_to_its_end_and_writes_nothing(tmp_path: Path) -> None:
    write_space(tmp_path, epochs=3, attacks="natural, gn, fgsm")
    done: list[int] = []
    thread = threading.Thread(
        target=lambda: done.append(launch(Request.read(options_of(tmp_path)), Console(file=io.StringIO()))), daemon=True
    )
    thread.start()
    storage = Storage(str(tmp_path / "storage"))
    end = time.monotonic() + 60
    while not (tmp_path / "storage").exists() or not storage.files.list("plans"):
        assert time.monotonic() < end
        time.sleep(0.02)
    out = Console(file=io.StringIO(), width=120)
    assert watch.watch(storage, out, sleep=lambda seconds: time.sleep(0.05)) == 0
    thread.join(60)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert done == [0]
    assert "small: starts at epoch" in text and "finished" in text and "2 done" in text
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "storage").rglob("*")}
    again = Console(file=io.StringIO(), width=120)
    assert watch.watch_request(Request.read(options_of(tmp_path)), again) == 0
    with pytest.raises(UserError, match=r"--watch: expected a launch with these options .* got others"):
        watch.watch_request(Request.read(options_of(tmp_path, seeds=[7])), again)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "storage").rglob("*")} == before


def test_watching_ends_where_no_launch_runs(tmp_path: Path) -> None:
    write_space(tmp_path)
    storage = Storage(str(tmp_path / "storage"))
    with pytest.raises(UserError, match="launched into it, got none"):
        watch.watch(storage, Console(file=io.StringIO()))
    from ablate.storage import plans

    plan = plan_of(options_of(tmp_path))
    plans.save(plan_file_of(plan), storage)
    out = Console(file=io.StringIO(), width=120)
    assert watch.watch(storage, out, sleep=lambda seconds: None) == 1
    assert "No launch is running; 2 trainings to go." in out.file.getvalue()  # type: ignore[attr-defined]
    key = next(iter(plan.trainings))
    with Leases(storage.files) as claims:
        claims.acquire(key)
        looks = iter(range(3 * watch.UNHELD_LOOKS))

        def sleep(seconds: float) -> None:
            if next(looks) == 2 * watch.UNHELD_LOOKS:
                raise KeyboardInterrupt  # it would have waited on

        with pytest.raises(KeyboardInterrupt):
            watch.watch(storage, Console(file=io.StringIO()), sleep=sleep)
