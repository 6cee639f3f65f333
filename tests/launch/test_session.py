"""A launch in this process: what it prunes, how it ends, and what it leaves as it found it."""

from __future__ import annotations

import io
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablate.core.errors import SpecError, StorageError, TrackingError
from ablate.core.user_code import import_modules
from ablate.execution.base import Outcome
from ablate.launch import session, watch
from ablate.launch.options import Options
from ablate.launch.request import Request
from ablate.planning.plan_file import plan_file_of
from ablate.report import __main__ as report
from ablate.spaces.seeds import parse_seeds
from ablate.storage.leases import Leases
from ablate.storage.storage import Storage
from tests.support.helpers import launch_here, options_of, plan_of, write_space
from tests.support.tasks import have_tasks_run_by, what_runs_tasks

QUICK = ["measurement.attacks=[natural]"]


def options(folder: Path, **changes: Any) -> Options:
    return options_of(folder, **{"sets": QUICK, **changes})


def run(folder: Path, **changes: Any) -> tuple[int, str]:
    return launch_here(options(folder, **changes))


def checkpoints(folder: Path) -> set[str]:
    return {path.relative_to(folder / "storage").parts[0] for path in (folder / "storage").rglob("checkpoint-*")}


def test_only_what_is_whole_and_nobodys_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_space(tmp_path, epochs=1)
    assert run(tmp_path)[0] == 0
    one, two = plan_of(options(tmp_path)).trainings
    storage = Storage(str(tmp_path / "storage"))
    with Leases(storage.files) as leases:
        assert leases.acquire(one)  # another launch measures more on it
        assert "Pruned" in run(tmp_path, prune=True)[1]
        assert checkpoints(tmp_path) == {one}
    more = ["measurement.attacks=[natural, fgsm]"]
    original = what_runs_tasks()

    def failing(task: Any, *rest: Any) -> Outcome:
        return Outcome(task.key, "failed", "no gradient") if task.key == one else original(task, *rest)

    have_tasks_run_by(failing, monkeypatch)
    assert run(tmp_path, prune=True, sets=more)[0] == 1
    assert checkpoints(tmp_path) == {one}  # its retry measures what failed on the very network
    monkeypatch.undo()
    assert run(tmp_path, prune=True)[0] == 0
    assert checkpoints(tmp_path) == set()
    assert run(tmp_path)[0] == 0  # records are all that is needed
    assert two in plan_of(options(tmp_path)).trainings


def test_an_interrupted_launch_leaves_ctrl_c_as_it_found_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_space(tmp_path, epochs=1)

    def interrupted(*_: Any) -> Outcome:
        raise KeyboardInterrupt

    have_tasks_run_by(interrupted, monkeypatch)
    before = signal.getsignal(signal.SIGINT)
    code, text = run(tmp_path)
    assert code == 130 and "Stopping: what is trained is kept." in text
    assert signal.getsignal(signal.SIGINT) is before


def test_a_table_that_cannot_be_shown_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tracker:
        uri = "http://server"

        def paths(self, plan_id: str) -> list[tuple[str, str]]:
            return []

    def away(*_: Any) -> None:
        raise TrackingError("expected MLflow at http://server to take the call")

    write_space(tmp_path, epochs=1)
    monkeypatch.setattr(report, "print_space", away)
    asked = options(tmp_path)
    out = Console(file=io.StringIO(), width=150)
    storage = Storage(asked.storage)
    doing = session.Session(asked, storage, Request.read(asked).subject(storage), out, io.StringIO())
    doing.tracker = Tracker()
    assert doing.run() == 0
    assert "expected MLflow at http://server" in out.file.getvalue()  # type: ignore[attr-defined]


def test_watching_sees_a_launch_that_starts_and_one_that_tries_again(tmp_path: Path) -> None:
    write_space(tmp_path, epochs=1)
    storage = Storage(str(tmp_path / "storage"))
    from ablate.storage import plans

    plan = plan_of(options(tmp_path))
    plans.save(plan_file_of(plan), storage)
    one, two = plan.trainings

    def watched(looks: int) -> tuple[int | None, str]:
        left = iter(range(looks))

        def sleep(seconds: float) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt  # it would wait on

        out = Console(file=io.StringIO(), width=120)
        try:
            code = watch.watch(storage, out, sleep=sleep)
        except KeyboardInterrupt:
            code = None
        return code, out.file.getvalue()  # type: ignore[attr-defined]

    with Leases(storage.files) as leases:
        leases.acquire(f"plan-{plan.id}")  # while Ray starts
        assert watched(3 * watch.UNHELD_LOOKS)[0] is None
    for key in (one, two):
        storage.describe(key, plan.trainings[key].identity)
        storage.attempt(key).save_failure("loss became nan", "", 1)
    assert watched(10)[0] == 1
    with Leases(storage.files) as leases:
        leases.acquire(one)  # --retry-failed
        code, text = watched(10)
    assert code is None and text.count("loss became nan") <= 1


def test_watching_tells_a_failure_at_once_and_once_though_the_launch_goes_on(tmp_path: Path) -> None:
    from ablate.storage import plans

    write_space(tmp_path, epochs=1)
    storage = Storage(str(tmp_path / "storage"))
    plan = plan_of(options(tmp_path))
    plans.save(plan_file_of(plan), storage)
    one, two = plan.trainings
    for key in (one, two):
        storage.describe(key, plan.trainings[key].identity)
    out = Console(file=io.StringIO(), width=120)
    attempts: list[Any] = []
    with Leases(storage.files) as leases:
        for key in (f"plan-{plan.id}", one, two):
            leases.acquire(key)

        def sleep(seconds: float) -> None:
            text = out.file.getvalue()  # type: ignore[attr-defined]
            looks.append(text.count("loss became nan"))
            if len(looks) in (1, 6):  # the first try, and another with --retry-failed
                attempts.append(storage.attempt(one))
                attempts[-1].save_checkpoint(0, b"", [], finished=False)
            if len(looks) in (3, 8):
                attempts[-1].save_failure("loss became nan", "", len(looks))
            if len(looks) == 12:
                raise KeyboardInterrupt

        looks: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            watch.watch(storage, out, sleep=sleep)
    assert looks == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2]


def test_rows_name_their_data_as_each_of_them_says(tmp_path: Path) -> None:
    path = write_space(tmp_path)
    text = path.read_text().replace("{label: large again, set: {", "{label: large again, set: {data.label: pens, ")
    assert "pens" in text
    path.write_text(text)
    labels = {planned.trial.label: planned.data.label for planned in plan_of(options(tmp_path)).trials}
    assert labels["large again"] == "pens" != labels["large"]


@pytest.mark.parametrize("content", ["def f(:\n", "raise RuntimeError('no such device')\n", "1 / 0\n"])
def test_a_users_module_that_fails_is_named_with_its_line(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_broken_module.py").write_text(content)
    with pytest.raises(SpecError, match=r"--import my_broken_module: expected .* got \w+Error.*my_broken_module.py:1"):
        import_modules(["my_broken_module"])


@pytest.mark.parametrize("given", ["mine.py", "./mine.py", "./mine", "package/mine.py"])
def test_a_file_in_a_modules_place_is_answered_with_its_name(given: str) -> None:
    with pytest.raises(SpecError, match=r"did you mean (package\.)?mine\?$"):
        import_modules([given])


def test_numbers_of_thousands_of_digits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="expected whole numbers"):
        parse_seeds("9" * 5000)
    write_space(tmp_path)
    with pytest.raises(SpecError, match=r"training\.epochs"):
        plan_of(options(tmp_path, sets=["training.epochs=0x" + "F" * 5000]))


@pytest.mark.parametrize("dry_run", [False, True])
def test_storage_that_cannot_be_written_is_refused_by_a_dry_run_too(tmp_path: Path, dry_run: bool) -> None:
    write_space(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="writable"):
        launch_here(options_of(tmp_path, storage=str(tmp_path / "file" / "storage"), dry_run=dry_run))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "tiny.yaml"]


def test_a_dry_run_makes_no_storage(tmp_path: Path) -> None:
    write_space(tmp_path)
    assert launch_here(options_of(tmp_path, dry_run=True))[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]
