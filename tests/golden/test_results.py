"""A storage folder and an MLflow database of an earlier version: read, reported, resumed and synced. See `make.py`."""

from __future__ import annotations

import csv
import io
import json
import lzma
import math
import shutil
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ablate
from ablate.report import __main__ as report
from ablate.storage.storage import Storage
from tests.golden.make import FOLDER, move
from tests.support.helpers import launch_here, numbers, options_of

HERE = Path(__file__).resolve().parent
SPACES = ("tiny", "tiny_search")
THEN: dict[str, Any] = json.loads((HERE / "results.json").read_text())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder as it was left."""
    for space in SPACES:
        shutil.copy(HERE / f"{space}.yaml", tmp_path)
    with tarfile.open(HERE / "storage.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "mlflow.db").write_bytes(lzma.decompress((HERE / "mlflow.db.xz").read_bytes()))
    move(tmp_path / "mlflow.db", FOLDER, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def reported(space: str, *arguments: str) -> str:
    done = CliRunner().invoke(report.app, ["--space", space, "--format", "csv", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def lines_of(table: str) -> dict[tuple[str, str], dict[str, str]]:
    """Row and source -> what a table has of them."""
    start = table.index("row,source")
    return {(line["row"], line["source"]): line for line in csv.DictReader(io.StringIO(table[start:]))}


def actions(folder: Path, space: str) -> dict[str, tuple[str, int]]:
    """Row -> what a launch would do about its training, and from which epoch."""
    trials = ablate.load_space(folder / f"{space}.yaml").plan(storage=folder / "storage").trials()
    return {row: (action, epoch) for row, action, epoch in zip(trials.row, trials.action, trials.epoch, strict=True)}


def runs(folder: Path) -> set[str]:
    """Ids of all of MLflow's runs."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        return {run for (run,) in database.execute("select run_uuid from runs where lifecycle_stage = 'active'")}


@pytest.mark.parametrize("space", SPACES)
def test_its_storage_is_read(here: Path, space: str) -> None:
    frame = ablate.load_space(here / f"{space}.yaml").plan(storage=here / "storage").results()
    found = json.loads(frame.to_json(orient="index", double_precision=15))
    assert found.keys() == THEN[space]["stored"].keys()
    for row, values in THEN[space]["stored"].items():
        for name, value in values.items():
            same = found[row][name] == value or math.isclose(found[row][name], value, rel_tol=1e-9)
            assert same, (row, name)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("network", ["last", "best"])
def test_it_is_reported_from_mlflow(here: Path, space: str, network: str) -> None:
    found, then = lines_of(reported(space, "--network", network)), lines_of(THEN[space][network])
    assert found.keys() == then.keys()
    for place, line in then.items():
        assert line.items() <= found[place].items(), place


def test_what_a_launch_would_do_about_it(here: Path) -> None:
    table = actions(here, "tiny")
    assert table["whole"] == table["filtered"] == ("reuse", 2)
    assert table["failing"][0] == "failed"
    action, epoch = table["cut off"]
    assert action == "continue" and 0 < epoch < 6
    found = [action for action, _ in actions(here, "tiny_search").values()]
    assert sorted(found) == ["reuse", "stopped", "stopped"]


@pytest.mark.slow
def test_a_table_goes_on_where_it_was_cut_off(here: Path) -> None:
    storage = Storage(str(here / "storage"))
    attempts = {key: storage.view(key).attempts for key in list(storage.keys())}
    before = numbers(here / "storage")
    plan = ablate.load_space(here / "tiny.yaml").plan(storage=here / "storage")
    training = dict(zip(plan.trials().row, plan.trials().training, strict=True))
    code, output = launch_here(options_of(here))
    assert code == 1 and "loss became nan" in output  # what failed is left alone, and said
    table = actions(here, "tiny")
    assert table["cut off"] == ("reuse", 6) and table["whole"] == ("reuse", 2) and table["failing"][0] == "failed"
    more = {key: storage.view(key).attempts - count for key, count in attempts.items()}
    assert {key for key, count in more.items() if count} == {training["cut off"]}
    after = numbers(here / "storage")
    assert after.keys() > before.keys()
    for name, value in before.items():
        kept = after[name][: len(value)] if name.endswith("/history") else after[name]
        assert kept == value, name


def test_a_search_goes_on_with_more_samples(here: Path) -> None:
    before = actions(here, "tiny_search")
    code, output = launch_here(options_of(here, "tiny_search"))
    assert code == 0 and actions(here, "tiny_search") == before, output
    code, output = launch_here(options_of(here, "tiny_search", sets=["search.samples=4"]))
    after = actions(here, "tiny_search")
    assert code == 0 and before.items() < after.items() and len(after) == 4, output


@pytest.mark.slow
def test_what_follows_is_sent_to_its_database(here: Path) -> None:
    """What is there is not sent twice; what is trained from now on takes its place in the same runs."""
    known = runs(here)
    reported("tiny", "--sync")
    assert runs(here) == known
    launch_here(options_of(here))
    found = lines_of(reported("tiny", "--sync"))
    assert runs(here) == known
    then = lines_of(THEN["tiny"]["last"])
    kept = [place for place in then if place[0] in ("whole", "filtered")]
    assert kept and all(then[place].items() <= found[place].items() for place in kept)
    assert then["cut off", "ours"]["natural"] == "" and float(found["cut off", "ours"]["natural"]) >= 0


def test_its_nested_runs_lie_flat_once_they_are_sent_again(here: Path) -> None:
    def nested() -> int:
        with sqlite3.connect(here / "mlflow.db") as database:
            return len(database.execute("select 1 from tags where key = 'mlflow.parentRunId'").fetchall())

    known, before = runs(here), nested()
    reported("tiny_search", "--sync")
    assert before - nested() == len(THEN["tiny_search"]["stored"]) and runs(here) == known


def test_its_storage_makes_the_same_report_in_a_new_database(here: Path) -> None:
    new = f"sqlite:///{here}/new.db"
    for space in SPACES:
        found = lines_of(reported(space, "--sync", "--tracking-uri", new))
        assert found == lines_of(reported(space))
