"""The command line: help, lists, completion, estimates, watching, and how little it loads."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablate import completion, estimates, spaces, watching
from ablate.claiming import Claims
from ablate.errors import UserError
from ablate.launching import launch, plan_of
from ablate.planning import decide
from ablate.storage import Storage
from tests.helpers import command, environment, options_of, run_launch, write_space

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
    assert "Examples:" in text and "--space batch_size --preset smoke" in text
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
    code = "from ablate.launch import arguments; arguments()"
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
    assert launch(options_of(tmp_path), Console(file=io.StringIO())) == 0
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


def test_a_launch_of_more_than_a_day_is_refused_where_nobody_can_be_asked(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(estimates, "calibrated_speed", lambda gpu: 1e9)
    output = Console(file=io.StringIO())
    with pytest.raises(UserError, match=r"less than a day on this machine, or --yes; .*--preset smoke takes about"):
        launch(options_of(tmp_path, space=["batch_size"]), output)
    assert not list((tmp_path / "storage").iterdir())
    assert estimates.runs_here(options_of(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    assert not estimates.runs_here(options_of(tmp_path, local=False))


def test_yes_goes_on_however_long_it_takes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(estimates, "calibrated_speed", lambda gpu: 1.0)
    write_space(tmp_path, epochs=1)
    with pytest.raises(UserError):
        launch(options_of(tmp_path), Console(file=io.StringIO()))
    assert launch(options_of(tmp_path, yes=True), Console(file=io.StringIO())) == 0


def test_json_alone_on_standard_output(tmp_path: Path) -> None:
    space = write_space(tmp_path, epochs=1)
    arguments = ("--space", str(space), "--local", "--no-tracking", "--cpus-per-trial", "1", "--json")
    done = subprocess.run(command(*arguments), cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [trial["state"] for trial in results["trials"]] == ["finished"] * 3
    assert results["trials"][0]["metrics"].keys() == {f"accuracy/{name}" for name in ("natural", "gn", "fgsm", "pgd20")}
    assert "done" in done.stderr


def test_watching_shows_a_launch_to_its_end_and_writes_nothing(tmp_path: Path) -> None:
    write_space(tmp_path, epochs=3)
    done: list[int] = []
    thread = threading.Thread(
        target=lambda: done.append(launch(options_of(tmp_path), Console(file=io.StringIO()))), daemon=True
    )
    thread.start()
    storage = Storage(str(tmp_path / "storage"))
    end = time.monotonic() + 60
    while not (tmp_path / "storage").exists() or not storage.files.list("plans"):
        assert time.monotonic() < end
        time.sleep(0.02)
    out = Console(file=io.StringIO(), width=120)
    assert watching.watch(storage, out, poll_s=0.05) == 0
    thread.join(60)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert done == [0]
    assert "small: starts at epoch" in text and "finished" in text and "2 done" in text
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "storage").rglob("*")}
    again = Console(file=io.StringIO(), width=120)
    assert watching.watch_options(options_of(tmp_path), again) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "storage").rglob("*")} == before


def test_watching_ends_where_no_launch_runs(tmp_path: Path) -> None:
    write_space(tmp_path)
    storage = Storage(str(tmp_path / "storage"))
    with pytest.raises(UserError, match="launched into it, got none"):
        watching.watch(storage, Console(file=io.StringIO()))
    from ablate import plan_file

    plan = plan_of(options_of(tmp_path))
    plan_file.save(plan, storage)
    out = Console(file=io.StringIO(), width=120)
    assert watching.watch(storage, out, sleep=lambda seconds: None) == 1
    assert "No launch is running; 2 trainings to go." in out.file.getvalue()  # type: ignore[attr-defined]
    key = next(iter(plan.trainings))
    with Claims(storage.files) as claims:
        claims.acquire(key)
        looks = iter(range(3 * watching.UNHELD_LOOKS))

        def sleep(seconds: float) -> None:
            if next(looks) == 2 * watching.UNHELD_LOOKS:
                raise KeyboardInterrupt  # it would have waited on

        with pytest.raises(KeyboardInterrupt):
            watching.watch(storage, Console(file=io.StringIO()), sleep=sleep)
