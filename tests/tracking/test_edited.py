"""Tags, names, parameters and artifacts are somebody's input: whatever is edited, no number is wrong, none is lost."""

from __future__ import annotations

import contextlib
import html
import io
import json
import os
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from ablate.core.errors import UserError
from ablate.launch.request import Request
from ablate.launch.session import launch
from ablate.report import __main__ as report
from ablate.report.from_tracking import results_of
from ablate.report.verdicts.verdicts import verdicts_of
from ablate.storage.storage import Storage
from ablate.tracking.tracked_plan import TrackedPlan
from tests.support.helpers import options_of, write_space
from tests.support.tracking_world import Tracker, finish, plan_of, tracker_at

CHUNKS, EDITS, SYNCED_EVERY = 5, int(os.environ.get("ABLATE_TEST_EDITS", "30")), 50
"""So many tests of so many edits, 200 each by `make torture`; storage is sent again after the first of every fifty."""

VALUES = (
    "zero",
    "",
    "-1",
    "1e9",
    "0",
    "1",
    "yesterday",
    "../../x",
    "/tmp/x",
    "a'b",
    "é\x1b[2J",
    "null",
    "[]",
    "9" * 400,
)
KINDS = ("tag", "tag", "tag", "untag", "untag", "swap", "name", "space", "param", "file", "file")
SET_TAG = "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?"
GET_TAG = "SELECT value FROM tags WHERE run_uuid = ? AND key = ?"
PARAMETERS = ("row", "seed", "training.epochs", "measurement.lowpass_degree")
TABLES = ("experiments", "runs", "tags", "params")
CLAIM = {"says": "large batches are better", "above": {"row": "512", "rows": ["256"], "metrics": ["natural"]}}


class World:
    """A small store with its storage; what is edited in it can be undone."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder = folder
        self.storage = Storage(str(folder / "storage"))
        # Two rows that share a training, so that only parameters tell them apart, and two seeds.
        self.plan = plan_of(("512", "256"), (0, 1), shared=True, claims=[CLAIM], analyses=("spectrum",))
        for trial in self.plan.trials:
            trial.spec["measurement"]["lowpass_degree"] = 8 if trial.row == "256" else None
        finish(self.storage, self.plan)
        self.tracker = tracker_at(template)(folder / "project")
        self.tracker.sync(self.plan, self.storage)
        self.database = folder / "project" / "mlflow.db"
        self.artifacts = folder / "project" / "mlartifacts"
        self.clean = {path: path.read_bytes() for path in sorted(self.artifacts.rglob("*")) if path.is_file()}
        self.touched: set[Path] = set()
        with self.open() as database:
            for table in TABLES:
                database.execute(f"CREATE TABLE clean_{table} AS SELECT * FROM {table}")
        self.truth = self.told(self.tracker.read_plan("batch_size"))

    @contextlib.contextmanager
    def open(self) -> Any:
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as database, database:
            yield database

    def undo(self) -> None:
        with self.open() as database:
            for table in TABLES:
                database.execute(f"DELETE FROM {table}")
                database.execute(f"INSERT INTO {table} SELECT * FROM clean_{table}")
        for path in self.touched:
            remove(path)
            path.write_bytes(self.clean[path])
        self.touched.clear()
        self.tracker = Tracker(f"sqlite:///{self.database}")  # what it knows of experiments may be undone

    def sync(self) -> Tracker:
        """Send storage again, as a process of its own would; all that it may have written is undone later."""
        self.touched |= self.clean.keys()
        fresh = Tracker(f"sqlite:///{self.database}")
        fresh.sync(self.plan, self.storage, whole=True)
        return fresh

    @staticmethod
    def told(plan: TrackedPlan) -> dict[str, Any]:
        results = results_of(plan)
        found: dict[str, Any] = {f"published {row}": numbers for row, numbers in plan.space.published.items()}
        for (row, seed), outcome in results.outcomes.items():
            found[f"{row} {seed}"] = dict(outcome.values)
            for metric, right in plan.correct(row, seed).items():
                found[f"{row} {seed} {metric}"] = right.tolist()
            for metric, array in plan.arrays(row, seed).items():
                found[f"{row} {seed} {metric}"] = np.asarray(array).tolist()
            if curve := plan.curve(row, seed, "train/loss"):
                found[f"{row} {seed} curve"] = curve
        return found

    def edit(self, draw: random.Random) -> str:
        """One edit, in words."""
        kind = draw.choice(KINDS)
        if kind == "file":
            return self.edit_file(draw)
        with self.open() as database:
            runs = [row[0] for row in database.execute("SELECT run_uuid FROM runs ORDER BY run_uuid")]
            one, other, value = draw.choice(runs), draw.choice(runs), draw.choice(VALUES)
            if kind == "name":
                database.execute("UPDATE runs SET name = ? WHERE run_uuid = ?", (value, one))
                return f"name {one}"
            if kind == "space":
                database.execute("UPDATE experiments SET name = ? WHERE name = 'batch_size'", (value[:200],))
                return f"experiment {value[:20]!r}"
            if kind == "param":
                name = draw.choice(PARAMETERS)
                database.execute("UPDATE params SET value = ? WHERE run_uuid = ? AND key = ?", (value, one, name))
                return f"param {one} {name}={value[:20]!r}"
            found = [row[0] for row in database.execute("SELECT key FROM tags WHERE run_uuid = ? ORDER BY key", (one,))]
            name = draw.choice([each for each in found if each.startswith("ablate.")] or found)
            if kind == "untag":
                database.execute("DELETE FROM tags WHERE run_uuid = ? AND key = ?", (one, name))
            elif kind == "tag":
                database.execute(SET_TAG, (value, one, name))
            else:
                values = [database.execute(GET_TAG, (run, name)).fetchone() for run in (other, one)]
                for run, new in zip((one, other), values, strict=True):
                    if new is not None:
                        database.execute(SET_TAG, (*new, run, name))
            return f"{kind} {one} {name} {value[:20]!r} {other}"

    def edit_file(self, draw: random.Random) -> str:
        file, another = draw.choice(list(self.clean)), draw.choice(list(self.clean))
        content = self.clean[file]
        self.touched.add(file)
        remove(file)
        how = draw.choice(("gone", "cut", "noise", "folder", "other", "link"))
        if how == "cut":
            file.write_bytes(content[: len(content) // 2])
        elif how == "noise":
            place = draw.randrange(len(content))
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        elif how == "folder":
            file.mkdir()
        elif how == "other":
            file.write_bytes(self.clean[another])
        elif how == "link":
            file.symlink_to(self.folder / "outside.txt")
        return f"file {file.name}: {how}"


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, template: Path) -> World:
    folder = tmp_path_factory.mktemp("edited")
    (folder / "outside.txt").write_text("mine")
    return World(folder, template)


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.slow
def test_whatever_is_edited_no_number_is_wrong_and_storage_brings_it_back(world: World, chunk: int) -> None:
    draw = random.Random(chunk)
    names = {path.name for path in world.folder.iterdir()} | {"out"}
    for number in range(EDITS):
        done = [world.edit(draw) for _ in range(draw.choice((1, 1, 2, 3)))]
        try:
            check(world, done, number % SYNCED_EVERY == 0)
            assert (world.folder / "outside.txt").read_text() == "mine", (number, done)
            assert {path.name for path in world.folder.iterdir()} <= names, (number, done)
        finally:
            world.undo()


def check(world: World, done: list[str], synced: bool) -> None:
    spaces: list[str] = []
    with contextlib.suppress(UserError):
        spaces = world.tracker.spaces()
        world.tracker.left_aside()
    for space in {*spaces, "batch_size", "../../x"}:
        with contextlib.suppress(UserError):
            plan = world.tracker.read_plan(space)
            for what, numbers in world.told(plan).items():
                assert numbers == world.truth[what], (done, what)
            verdicts_of(results_of(plan))
            report.write_space(results_of(plan), ["csv", "markdown"], world.folder / "out" / plan.space.name)
    if synced:
        fresh = world.sync()
        assert world.told(fresh.read_plan("batch_size", world.plan.id)) == world.truth, done


DECIDE = {
    "training": ("curves", "artifacts", "storage", "state", "digest", "synced", "synced_epoch", "training_key"),
    "trial": ("artifacts", "storage", "state", "digest", "synced", "sent_from", "space", "training_run_id"),
    "published": ("storage", "digest", "row"),
    "plan": ("artifacts", "storage", "launched_ms"),
}
"""Of each kind of run the tags by which something is shown or not."""


@pytest.mark.parametrize("kind", DECIDE)
@pytest.mark.slow
def test_a_tag_that_decides_what_is_shown_is_sent_again(world: World, kind: str) -> None:
    with world.open() as database:
        of_kind = "SELECT MIN(run_uuid) FROM tags WHERE key = 'ablate.kind' AND value = ?"
        run = database.execute(of_kind, (kind,)).fetchone()[0]
    for name in DECIDE[kind]:
        for value in ("1", "[]") if name in ("curves", "storage") else ("1",):
            try:
                with world.open() as database:
                    assert database.execute(SET_TAG, (value, run, f"ablate.{name}")).rowcount == 1
                shown = world.sync().read_plan("batch_size")
                assert world.told(shown) == world.truth, (name, value)
                aside = [line for line in shown.altered if "its tag ablate.storage, got" not in line]
                assert (shown.problems, aside) == ({}, []), (name, value)
            finally:
                world.undo()


class Launched:
    """A space that was launched in this process with MLflow, for what users do next; each edit starts from the same."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder, self.outside = folder, folder / "outside"
        self.outside.mkdir()
        write_space(folder, epochs=1)
        self.database, self.clean = folder / "project" / "mlflow.db", folder / "clean.db"
        self.uri = f"sqlite:///{self.database}"
        tracker_at(template)(folder / "project")
        code, _, self.trials = self.launch()
        assert code == 0
        self.copy(self.database, self.clean)
        shutil.copytree(folder / "project" / "mlartifacts", folder / "clean")
        self.numbers = self.report("--format", "csv").stdout
        assert "natural" in self.numbers

    @staticmethod
    def copy(source: Path, to: Path) -> None:
        with contextlib.closing(sqlite3.connect(source)) as one, contextlib.closing(sqlite3.connect(to)) as other:
            one.backup(other)

    def edited(self, *statement: Any) -> None:
        """The store as the launch left it, but for one edit."""
        self.copy(self.clean, self.database)
        shutil.rmtree(self.folder / "project" / "mlartifacts")
        shutil.copytree(self.folder / "clean", self.folder / "project" / "mlartifacts")
        with contextlib.closing(sqlite3.connect(self.database)) as database, database:
            assert database.execute(*statement).rowcount >= 1

    def launch(self) -> tuple[int, str, Any]:
        """The same launch again: exit code, what it printed, its JSON."""
        printed, told = Console(file=io.StringIO(), width=200), io.StringIO()
        asked = options_of(
            self.folder, sets=["measurement.attacks=[natural]"], tracking=True, tracking_uri=self.uri, as_json=True
        )
        code = launch(Request.read(asked), printed, told)
        return code, printed.file.getvalue(), json.loads(told.getvalue())  # type: ignore[attr-defined]

    def report(self, *arguments: str) -> Result:
        result = CliRunner().invoke(report.app, ["--tracking-uri", self.uri, *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result

    def sync(self) -> Result:
        return self.report("--sync", "--storage", str(self.folder / "storage"), "--format", "csv")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Launched:
    return Launched(tmp_path_factory.mktemp("launched"), template)


ONE = "run_uuid = (SELECT MIN(run_uuid) FROM tags WHERE key = 'ablate.kind' AND value = ?)"
SET = f"UPDATE tags SET value = ? WHERE key = ? AND {ONE}"
CUT = f"DELETE FROM tags WHERE key = ? AND {ONE}"
NAMED = {
    "a seed that is none": ((SET, ("zero", "ablate.seed", "trial")), "ablate.seed, got 'zero'"),
    "no seed": ((CUT, ("ablate.seed", "trial")), "ablate.seed, got none"),
    "no row": ((CUT, ("ablate.row", "trial")), "ablate.row, got none"),
    "no kind": ((CUT, ("ablate.kind", "trial")), "ablate.kind, got none"),
    "no plan": ((CUT, ("ablate.plan", "trial")), "ablate.plan, got none"),
    "a row of no plan": ((SET, ("../../x", "ablate.row", "trial")), "the plan has no such row and seed"),
    "another training's key": ((SET, ("0" * 24, "ablate.training_key", "trial")), "ablate.training_key, got '000"),
    "no plan of its own": ((CUT, ("ablate.plan", "plan")), "ablate.plan, got none"),
    "a training without a key": ((CUT, ("ablate.training_key", "training")), "ablate.training_key, got none"),
    "a day that is none": ((SET, ("yesterday", "ablate.launched_ms", "plan")), "ablate.launched_ms, got 'yesterday'"),
}


@pytest.mark.parametrize("what", NAMED)
@pytest.mark.slow
def test_a_run_whose_tags_do_not_fit_is_named_and_made_again(launched: Launched, what: str, tmp_path: Path) -> None:
    statement, said = NAMED[what]
    launched.edited(*statement)
    told = words(launched.report().output)
    assert said in told and "left aside" in told
    files = launched.report("--format", "csv", "--out", str(tmp_path / "out"))
    assert said in words(files.stderr) and said not in files.stdout
    if files.exit_code == 0:  # where the plan's own run can be read
        assert said in words(html.unescape((tmp_path / "out" / "index.html").read_text()))
    code, printed, results = launched.launch()
    assert code == 0 and results == {**launched.trials, "left_out": []}
    assert "Repaired 1 run" in words(printed)
    whole = launched.report("--format", "csv")
    assert whole.stdout == launched.numbers and "left aside" not in whole.stderr
    launched.edited(*statement)
    synced = launched.sync()
    assert synced.exit_code == 0 and synced.stdout.endswith(launched.numbers) and "left aside" not in synced.output
    assert "Repaired 1 run" in words(synced.output)
    with contextlib.closing(sqlite3.connect(launched.database)) as database:
        live = "SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'"
        below = f"SELECT value FROM tags WHERE key = 'ablate.plan_run_id' AND run_uuid IN ({live})"
        parents = {row[0] for row in database.execute(below)}
        assert parents and parents <= {row[0] for row in database.execute(live)}


@pytest.mark.parametrize("value", ["x", "9" * 30])
def test_an_epoch_that_is_none_costs_no_number(launched: Launched, value: str) -> None:
    statement = (SET, (value, "ablate.synced_epoch", "training"))
    launched.edited(*statement)
    assert launched.report("--format", "csv").stdout == launched.numbers
    assert launched.launch()[2]["trials"] == launched.trials["trials"]
    launched.edited(*statement)
    assert launched.sync().stdout.endswith(launched.numbers)


@pytest.mark.parametrize("name", ["../../x", "{outside}/x", "Tiny", "a'b\x1b[2J"])
@pytest.mark.slow
def test_no_path_is_made_from_an_experiments_name(launched: Launched, name: str, tmp_path: Path) -> None:
    name = name.format(outside=launched.outside)
    statement = ("UPDATE experiments SET name = ? WHERE name = 'tiny'", (name,))
    launched.edited(*statement)
    before = set(launched.folder.rglob("*"))
    for asked in ("all", "tiny", name):
        told = launched.report("--space", asked, "--out", str(tmp_path / "a" / "b"))
        assert told.exit_code == 2 and "\x1b" not in told.output
        assert "left aside, expected a space's name" in words(told.stderr) or asked == name
        assert list(tmp_path.rglob("*")) == []
    assert set(launched.folder.rglob("*")) == before
    code, _, results = launched.launch()
    assert code == 0 and results == {**launched.trials, "left_out": []}
    again = launched.report("--format", "csv")
    assert again.stdout == launched.numbers and "left aside" in words(again.stderr)
    launched.edited(*statement)
    assert launched.sync().stdout.endswith(launched.numbers)
    assert list(launched.outside.iterdir()) == []


def words(text: str) -> str:
    return " ".join(text.split())
