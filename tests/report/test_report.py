from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ablate.report.__main__ import app
from ablate.storage import plans
from ablate.storage.storage import Storage
from tests.support.tracking_world import (
    EPOCHS,
    T0,
    Tracker,
    correct_of,
    finish,
    plan_of,
    train,
)

CLAIM = {"says": "large batches are better", "above": {"row": "512", "rows": ["256"], "metrics": ["natural"]}}


@pytest.fixture(scope="module")
def world(at: Callable[[Path], Tracker], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose mlflow.db holds three plans of two spaces; the storage they came from is gone."""
    folder = tmp_path_factory.mktemp("world")
    storage, tracker = Storage(str(folder / "storage")), at(folder)
    paper = plan_of(plan_id="1111111111", seeds=(0, 1, 2), salt="1", paper=True, claims=[CLAIM], launched_ms=T0)
    smoke = plan_of(plan_id="2222222222", salt="2", preset="smoke", claims=[CLAIM], launched_ms=T0 + 1)
    for plan in (paper, smoke):
        finish(storage, plan)
        tracker.sync(plan, storage)
    lowpass = plan_of(("32", "16", "8"), plan_id="3333333333", space="lowpass", salt="3", launched_ms=T0 + 2)
    failing, _, done = lowpass.trainings()
    train(storage, failing, EPOCHS - 1).save_failure("loss became nan in epoch 3", "", T0 + 5)
    finish(storage, lowpass, [done])
    tracker.sync(lowpass, storage)
    shutil.rmtree(storage.location)
    return folder


@pytest.fixture
def report(world: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str, folder: Path = world) -> Result:
        monkeypatch.chdir(folder)
        return CliRunner().invoke(app, list(arguments))

    return run


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_latest_plan_of_each_space_is_printed(report: Callable[..., Result]) -> None:
    result = report()
    assert result.exit_code == 0, result.output
    text = words(result.stdout)
    assert "Batch size of PGD-7 training" in text
    assert "plan 2222222222" in text
    assert "plan 3333333333" in text
    assert "No verdicts on 1 claim: the smoke preset" in text
    assert "failed: loss became nan in epoch 3" in text
    assert "not trained" in text
    assert "1111111111" in text.split("Other plans of batch_size")[1]


def test_a_plan_by_its_id_with_verdicts_on_its_data(report: Callable[..., Result]) -> None:
    result = report("--plan", "1111111111")
    text = words(result.stdout)
    assert "Verdicts on CIFAR-10 (the paper's data)" in text
    assert "“large batches are better”" in text
    assert text.count("ours: ") >= 1
    assert text.count("published: ") == 1
    assert "lowpass" not in text
    assert "difference" in text


def test_verdicts_are_whole_lines_in_a_file(report: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    wide = report("--plan", "1111111111").stdout
    monkeypatch.setenv("COLUMNS", "40")
    narrow = report("--plan", "1111111111").stdout

    def verdicts(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith(("  ours:", "  published:", "  by "))]

    assert verdicts(wide) == verdicts(narrow) and len(verdicts(wide)) >= 3


def test_verdicts_name_data_that_is_not_the_papers(
    at: Callable[[Path], Tracker], tmp_path: Path, report: Callable[..., Result]
) -> None:
    plan = plan_of(claims=[CLAIM])
    storage = Storage(str(tmp_path / "storage"))
    finish(storage, plan)
    at(tmp_path).sync(plan, storage)
    text = words(report("--space", "batch_size", folder=tmp_path).stdout)
    assert "Verdicts on digits 16x16 (not the paper's data)" in text
    assert "no difference" in text


def test_where_nothing_was_published_nothing_is_said_of_it(
    at: Callable[[Path], Tracker], tmp_path: Path, report: Callable[..., Result]
) -> None:
    plan = plan_of(claims=[CLAIM], published=False)
    storage = Storage(str(tmp_path / "storage"))
    finish(storage, plan)
    at(tmp_path).sync(plan, storage)
    text = report(folder=tmp_path).stdout
    report("--out", "page", folder=tmp_path)
    assert "  ours: " in text and "published:" not in text
    page = (tmp_path / "page" / "index.html").read_text()
    assert "Ours: " in page and "Published: " not in page


def test_csv_has_the_numbers_in_full(report: Callable[..., Result]) -> None:
    result = report("--space", "batch_size", "--plan", "1111111111", "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(result.stdout)))
    plan = plan_of(seeds=(0, 1, 2), salt="1")
    for row in ("512", "256"):
        (ours,) = [line for line in lines if line["row"] == row and line["source"] == "ours"]
        values = [100 * correct_of(t.columns["accuracy/natural"]).mean() for t in plan.trials if t.row == row]
        assert float(ours["natural"]) == pytest.approx(sum(values) / 3)
        assert ours["n"] == "3"


def test_formats_may_be_repeated(report: Callable[..., Result]) -> None:
    result = report("--space", "batch_size", "--format", "markdown", "--format", "latex")
    assert "| Row |" in result.stdout
    assert "\\begin{tabular}" in result.stdout


def test_files_for_each_space(report: Callable[..., Result], tmp_path: Path) -> None:
    result = report("--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert found >= {f"{space}/table.{end}" for space in ("batch_size", "lowpass") for end in ("md", "tex", "csv")}
    assert "loss became nan" in (tmp_path / "out" / "lowpass" / "table.md").read_text()


def test_a_storage_is_read_without_any_mlflow(report: Callable[..., Result], tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "storage"))
    for number, (space, later) in enumerate((("lowpass", 0), ("batch_size", 1), ("batch_size", 0)), 1):
        plan_id = str(number) * 10
        plan = plan_of(plan_id=plan_id, space=space, salt=plan_id, claims=[CLAIM], launched_ms=T0 + later)
        finish(storage, plan)
        plans.save(plan, storage)
    done = report("--storage", "storage", folder=tmp_path)
    assert done.exit_code == 0, done.output
    text = words(done.stdout)
    assert text.index("plan 1111111111") < text.index("plan 2222222222") < text.index("3333333333")  # by the table
    assert "Other plans of batch_size (--plan ID): 3333333333" in text and CLAIM["says"] in text
    assert "plan 3333333333" in words(report("--storage", "storage", "--plan", "3" * 10, folder=tmp_path).stdout)
    done = report("--storage", "storage", "--space", "lowpass", "--out", "out", folder=tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "index.html").exists() and (tmp_path / "out" / "lowpass" / "table.csv").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_json_of_several_plans_is_a_list_and_of_one_it_is_the_plan(report: Callable[..., Result]) -> None:
    several = json.loads(report("--json").stdout)
    assert {plan["id"] for plan in several} == {"2222222222", "3333333333"}
    one = json.loads(report("--json", "--plan", "3333333333").stdout)
    assert one == next(plan for plan in several if plan["id"] == "3333333333")
    assert [trial["state"] for trial in one["trials"]] == ["failed", "missing", "finished"]
    assert [trial["epoch"] for trial in one["trials"]] == [EPOCHS - 1, -1, EPOCHS]


def test_json_stands_alone_on_standard_output(report: Callable[..., Result], tmp_path: Path) -> None:
    done = report("--json", "--space", "lowpass", "--out", str(tmp_path / "out"))
    assert json.loads(done.stdout)["id"] == "3333333333"
    assert str(tmp_path / "out" / "index.html") in done.stderr.replace("\n", "")
    refused = report("--json", "--format", "csv")
    assert refused.exit_code == 2 and not refused.stdout
    assert "--json: expected no --format beside it without --out, got csv" in words(refused.stderr)


def test_without_a_best_network_its_rows_say_so(report: Callable[..., Result]) -> None:
    text = words(report("--space", "batch_size", "--network", "best").stdout)
    assert "no best network" in text


def test_storage_from_elsewhere_is_sent_and_reported(
    at: Callable[[Path], Tracker], report: Callable[..., Result], tmp_path: Path
) -> None:
    at(tmp_path)  # only because creating a database takes seconds
    storage, plan = Storage(str(tmp_path / "brought")), plan_of(rows=("512", "256"))
    plans.save(plan, storage)
    first, _ = plan.trainings()
    finish(storage, plan, [first])
    result = report("--sync", "--storage", "brought", folder=tmp_path)
    assert result.exit_code == 0, result.output
    assert "1 of 2 trainings are whole" in words(result.stdout)
    assert "not trained" in words(result.stdout)
    finish(storage, plan)
    assert "2 of 2 trainings are whole" in words(
        report("--sync", "--storage", "brought", "--plan", plan.id, folder=tmp_path).stdout
    )
    assert "not trained" not in report(folder=tmp_path).stdout


def test_a_storage_without_plans_makes_no_database(report: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert report("--sync", folder=tmp_path / "empty").exit_code == 2
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--space", "batch_sise"), "did you mean 'batch_size'?"),
        (("--plan", "1111111112"), "did you mean '1111111111'?"),
        (("--space", "batch_size", "--plan", "9"), "expected a plan of batch_size"),
        (("--tracking-uri", "ftp://x"), "expected sqlite:///<file>"),
        (("--tracking-uri", "sqlite:///nothing.db"), "got no such file"),
        (("--sync", "--storage", "nowhere"), "expected a plan launched into it, got none"),
        (("--out", "mlflow.db/x"), "expected a folder that can be written"),
        (("--storage", "nowhere"), "--storage nowhere: expected plans launched into it, got none"),
        (("--storage", "nowhere", "--space", "lowpass"), "expected a space with a plan in nowhere, got 'lowpass'"),
        (("--storage", "nowhere", "--tracking-uri", "x"), "expected no --tracking-uri beside it without --sync"),
        (("--storage", "nowhere", "--storage-id", "x"), "expected no --storage-id beside it without --sync"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    report: Callable[..., Result], arguments: tuple[str, ...], expected: str
) -> None:
    result = report(*arguments)
    assert result.exit_code == 2
    assert expected in words(result.stderr)
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) == 1


def test_an_empty_store_says_what_to_do(
    at: Callable[[Path], Tracker], report: Callable[..., Result], tmp_path: Path
) -> None:
    at(tmp_path)
    result = report(folder=tmp_path)
    assert result.exit_code == 2
    assert "launch one with python -m ablate.launch" in words(result.stderr)


def test_of_several_spaces_each_is_sent(
    at: Callable[[Path], Tracker], report: Callable[..., Result], tmp_path: Path
) -> None:
    at(tmp_path)  # an empty store
    storage = Storage(str(tmp_path / "storage"))
    for number, space in enumerate(("batch_size", "lowpass")):
        plan = plan_of(plan_id=str(number) * 10, space=space, salt=space)
        finish(storage, plan)
        plans.save(plan, storage)
    result = report("--sync", "--space", "batch_size", "--space", "lowpass", folder=tmp_path)
    assert result.exit_code == 0, result.output
    assert "Sent plan 0000000000" in result.stdout and "Sent plan 1111111111" in result.stdout
    assert "plan 0000000000" in words(result.stdout).split("Sent plan 1111111111")[1]


def test_what_was_set_is_said_below_every_table(
    at: Callable[[Path], Tracker], report: Callable[..., Result], tmp_path: Path
) -> None:
    at(tmp_path)
    storage = Storage(str(tmp_path / "storage"))
    plan = plan_of(rows=("512",), paper=True).model_copy(
        update={"overrides": ["training.epochs=8", "data.root=/home/me/images"]}
    )
    finish(storage, plan)
    plans.save(plan, storage)
    for format in ("terminal", "markdown", "latex"):
        result = report("--sync", "--format", format, folder=tmp_path)
        assert "training.epochs=8" in words(result.stdout), result.output
        assert "/home/me" not in result.stdout
