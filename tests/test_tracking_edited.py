"""Tags, names, parameters and artifacts are somebody's input: whatever is edited, no number is wrong, none is lost."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate import report
from ablate.errors import UserError
from ablate.reporting.reproduced import results_of, verdicts_of
from ablate.storage import Storage
from ablate.tracked import PlanResults
from tests.tracking_world import Tracker, finish, make_template, plan_of, tracker_at

CHUNKS, EDITS, SYNCED_EVERY = 5, 100, 50
"""So many tests of so many edits each, 500 in all; after every fiftieth one storage is sent again."""

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
PARAMETERS = ("seed", "training.epochs", "measurement.lowpass_degree")
TABLES = ("experiments", "runs", "tags", "params")
CLAIM = {"says": "large batches are better", "above": {"row": "512", "rows": ["256"], "metrics": ["natural"]}}


class World:
    """A small store with its storage; what is edited in it can be undone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = Storage(str(folder / "storage"))
        # Two rows that share a training, so that only parameters tell them apart, and two seeds.
        self.plan = plan_of(("512", "256"), (0, 1), shared=True, claims=[CLAIM], analyses=("spectrum",))
        for trial in self.plan.trials:
            trial.spec["measurement"]["lowpass_degree"] = 8 if trial.row == "256" else None
        finish(self.storage, self.plan)
        self.tracker = tracker_at(make_template(folder))(folder / "project")
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
        self.tracker._store._experiments.clear()

    def sync(self) -> Tracker:
        """Send storage again, as a process of its own would; all that it may have written is undone later."""
        self.touched |= self.clean.keys()
        fresh = Tracker(f"sqlite:///{self.database}")
        fresh.sync(self.plan, self.storage, whole=True)
        return fresh

    @staticmethod
    def told(plan: PlanResults) -> dict[str, Any]:
        results = results_of(plan)
        found: dict[str, Any] = {f"published {row}": numbers for row, numbers in plan.published.items()}
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
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("edited")
    (folder / "outside.txt").write_text("mine")
    return World(folder)


@pytest.mark.parametrize("chunk", range(CHUNKS))
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
            verdicts_of(plan, results_of(plan))
            report.write_space(plan, ["csv", "markdown"], world.folder / "out" / plan.space.name)
    if synced:
        fresh = world.sync()
        assert world.told(fresh.read_plan("batch_size", world.plan.id)) == world.truth, done
