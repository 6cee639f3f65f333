"""Tags, names, parameters and artifacts are somebody's input: whatever is edited, no number is wrong, none is lost."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from ablate import report
from ablate.errors import UserError
from ablate.reporting.reproduced import results_of, verdicts_of
from ablate.storage import Storage
from ablate.tracked import PlanResults
from tests.tracking_world import Tracker, finish, make_template, plan_of, tracker_at

EDITS, SYNCED_EVERY = 500, 50
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
        shutil.copytree(folder / "project" / "mlartifacts", folder / "clean")
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
        artifacts = self.folder / "project" / "mlartifacts"
        shutil.rmtree(artifacts)
        shutil.copytree(self.folder / "clean", artifacts)
        self.tracker._store._experiments.clear()

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
        with self.open() as database:
            runs = [row[0] for row in database.execute("SELECT run_uuid FROM runs ORDER BY run_uuid")]
            one, other = draw.choice(runs), draw.choice(runs)
            match draw.choice(
                ("tag", "tag", "tag", "untag", "untag", "swap", "name", "space", "param", "file", "file")
            ):
                case "tag" | "untag" | "swap" as how:
                    names = [
                        r[0] for r in database.execute("SELECT key FROM tags WHERE run_uuid = ? ORDER BY key", (one,))
                    ]
                    name = draw.choice([each for each in sorted(names) if each.startswith("ablate.")] or names)
                    value: Any = draw.choice(VALUES)
                    if how == "untag":
                        database.execute("DELETE FROM tags WHERE run_uuid = ? AND key = ?", (one, name))
                        return f"untag {one} {name}"
                    if how == "swap":
                        got = [
                            database.execute(
                                "SELECT value FROM tags WHERE run_uuid = ? AND key = ?", (run, name)
                            ).fetchone()
                            for run in (one, other)
                        ]
                        if None in got:
                            return "nothing"
                        for run, (new,) in ((one, got[1]), (other, got[0])):
                            database.execute(
                                "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?", (new, run, name)
                            )
                        return f"swap {name} of {one} and {other}"
                    database.execute(SET_TAG, (value, one, name))
                    return f"tag {one} {name}={value[:20]!r}"
                case "name":
                    database.execute("UPDATE runs SET name = ? WHERE run_uuid = ?", (draw.choice(VALUES), one))
                    return f"name {one}"
                case "space":
                    value = draw.choice(VALUES)
                    database.execute("UPDATE experiments SET name = ? WHERE name = 'batch_size'", (value[:200],))
                    return f"experiment {value[:20]!r}"
                case "param":
                    database.execute(
                        "UPDATE params SET value = ? WHERE run_uuid = ? AND key = ?",
                        (
                            draw.choice(VALUES),
                            one,
                            draw.choice(("seed", "training.epochs", "measurement.lowpass_degree")),
                        ),
                    )
                    return f"param {one}"
        files = sorted(path for path in (self.folder / "project" / "mlartifacts").rglob("*") if path.is_file())
        file, another = draw.choice(files), draw.choice(files)
        content = file.read_bytes()
        file.unlink()
        how = draw.choice(("gone", "cut", "noise", "folder", "other", "link"))
        if how == "cut":
            file.write_bytes(content[: len(content) // 2])
        elif how == "noise":
            place = draw.randrange(len(content))
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        elif how == "folder":
            file.mkdir()
        elif how == "other" and another != file:
            file.write_bytes(another.read_bytes())
        elif how == "link":
            file.symlink_to(self.folder / "outside.txt")
        return f"file {file.name}: {how}"


def test_whatever_is_edited_no_number_is_wrong_and_storage_brings_it_back(tmp_path: Path) -> None:
    world, draw = World(tmp_path), random.Random(0)
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    names = {path.name for path in tmp_path.iterdir()} | {"out"}
    for number in range(EDITS):
        done = [world.edit(draw) for _ in range(draw.choice((1, 1, 2, 3)))]
        spaces: list[str] = []
        with contextlib.suppress(UserError):
            spaces = world.tracker.spaces()
            world.tracker.left_aside()
        for space in {*spaces, "batch_size", "../../x"}:
            with contextlib.suppress(UserError):
                plan = world.tracker.read_plan(space)
                for what, numbers in world.told(plan).items():
                    assert numbers == world.truth[what], (number, done, what)
                verdicts_of(plan, results_of(plan))
                report.write_space(plan, ["csv", "markdown"], tmp_path / "out" / plan.space.name)
        if number % SYNCED_EVERY == 0:
            fresh = Tracker(f"sqlite:///{world.database}")
            fresh.sync(world.plan, world.storage, whole=True)
            assert world.told(fresh.read_plan("batch_size", world.plan.id)) == world.truth, (number, done)
        assert outside.read_text() == "mine", (number, done)
        assert {path.name for path in tmp_path.iterdir()} <= names, (number, done)
        world.undo()
