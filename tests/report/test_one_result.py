"""One launch, told in four ways: the printed table, JSON of the launch, the report's files, and the page."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ablate.analysis.registry import AnalysisContext, AnalysisResult, register_analysis
from ablate.core.errors import TrackingError
from ablate.launch import sources
from ablate.launch.request import Request
from ablate.launch.session import launch
from ablate.report import __main__ as report
from ablate.report.contents import page_of
from ablate.report.formats import number
from ablate.report.from_storage import results_of as stored
from ablate.report.from_tracking import results_of as tracked
from ablate.report.page import render
from ablate.report.results import Results
from ablate.report.serialization import results_as_json
from ablate.report.tables import Cell
from ablate.spaces.metrics import Metric
from ablate.storage import plans
from ablate.storage.storage import Storage
from ablate.tracking.sync import BackgroundSync
from ablate.tracking.tracker import Tracker
from tests.support.helpers import launch_here, options_of

pytestmark = pytest.mark.slow

SPACE = """\
title: Told in four ways
base: {model.width: 0.25, model.depth: 8, training.batch_size: 64, training.crop_padding: 1, training.attack.steps: 1,
       training.epochs: 1, data.name: digits, data.image_size: 8, data.validation: 0.2,
       measurement.attacks: [natural, pgd20], measurement.analyses: [sizes]}
rows:
  - {label: whole, set: {}, published: {natural: 70.5}}
  - {label: filtered, set: {measurement.lowpass_degree: 6}}
  - {label: failing, set: {training.learning_rate: 1.0e+30}}
claims:
  - {says: it trains, value: {row: whole, metrics: [sizes/mean, energy/ratio], at_least: 0}}
"""
SEEDS = (0, 1)
Told = dict[tuple[str, str, str], str]
"""(row, source, column) -> what is told, in the digits of the table."""


def sizes(context: AnalysisContext) -> AnalysisResult:
    return AnalysisResult({"sizes/mean": sum(float(p.abs().mean()) for p in context.network.parameters())})


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    folder = tmp_path_factory.mktemp("told")
    register_analysis("sizes", scalars=["sizes/mean"])(sizes)
    (folder / "tiny.yaml").write_text(SPACE, encoding="utf-8")
    uri = f"sqlite:///{folder}/mlflow.db"
    printed, out = Console(file=io.StringIO(), width=150), io.StringIO()
    options = options_of(folder, seeds=list(SEEDS), tracking=True, tracking_uri=uri, as_json=True)
    code = launch(Request.read(options), printed, out)
    files = CliRunner().invoke(report.app, ["--space", "tiny", "--tracking-uri", uri, "--out", str(folder / "out")])
    assert files.exit_code == 0, files.output
    scripts = CliRunner().invoke(report.app, ["--space", "tiny", "--tracking-uri", uri, "--json"])
    assert scripts.exit_code == 0, scripts.output
    straight = CliRunner().invoke(report.app, ["--storage", str(folder / "storage"), "--json"])
    assert straight.exit_code == 0, straight.output
    storage = Storage(str(folder / "storage"))
    return {
        "folder": folder,
        "code": code,
        "printed": printed.file.getvalue(),  # type: ignore[attr-defined]
        "json": json.loads(out.getvalue()),
        "report --json": json.loads(scripts.stdout),
        "report --storage --json": json.loads(straight.stdout),
        "csv": list(csv.DictReader(io.StringIO((folder / "out" / "tiny" / "table.csv").read_text()))),
        "page": (folder / "out" / "index.html").read_text(encoding="utf-8"),
        "uri": uri,
        "plan": Tracker(uri).read_plan("tiny"),
        "stored": lambda network: stored(plans.load(storage, None, "tiny"), storage, network),
    }


def of_json(content: Mapping[str, Any]) -> Told:
    """Means over the seeds, which only the reader of the JSON computes."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for trial in content["trials"]:
        for name, value in trial["metrics"].items() if trial["state"] == "finished" else ():
            metric = Metric.from_run(name)
            if metric.network == "last":
                source = "ours, adaptive" if metric.adaptive else "ours"
                found.setdefault((trial["row"], source, metric.column), []).append(value)
    assert all(len(values) == len(SEEDS) for values in found.values())
    return {(*place[:2], place[2]): number(place[2], Cell(sum(v) / len(v))) for place, v in found.items()}


def of_csv(lines: list[dict[str, str]]) -> Told:
    return {
        (line["row"], line["source"], column): number(column, Cell(float(value)))
        for line in lines
        for column, value in line.items()
        if value and line["source"] != "published" and f"{column}_sd" in line
    }


def plain(cell: str) -> str:
    text = html.unescape(re.sub(r"<span.*?</span>|<[^>]*>", "", cell, flags=re.DOTALL))
    return text.replace("\N{NO-BREAK SPACE}", " ").strip()


def of_page(page: str) -> Told:
    names = {"Natural": "natural", "PGD-20": "pgd20"}
    found: Told = {}
    for table in re.findall(r"<table.*?</table>", page, re.DOTALL):
        heads = [plain(head) for head in re.findall(r"<th[^>]*>(.*?)</th>", table.split("</thead>")[0], re.DOTALL)]
        row = ""
        for line in re.findall(r"<tr.*?</tr>", table.split("</thead>")[1], re.DOTALL):
            cells = [plain(cell) for cell in re.findall(r'<td class="number">(.*?)</td>', line, re.DOTALL)]
            group = re.search(r'scope="rowgroup".*?>(.*?)(<sup>|</th>)', line, re.DOTALL)
            row = plain(group[1]) if group else row
            source = re.search(r'class="source">(.*?)</th>', line, re.DOTALL)
            scalar = re.search(r'class="name">.*?<code>(.*?)</code>', line)
            for head, cell in zip(heads[1 if scalar else 2 :], cells, strict=False):
                if scalar is not None and cell != "—":
                    found[head, "ours", scalar[1]] = cell.replace("−", "-")
                elif source is not None and head in names and cell != "—":
                    found[row, re.sub(r", n = \d+$", "", plain(source[1])), names[head]] = cell.replace("−", "-")
    return found


def test_the_table_json_files_and_page_agree_number_for_number(told: Mapping[str, Any]) -> None:
    assert told["code"] == 1  # one row fails
    whole, table = of_json(told["json"]), of_csv(told["csv"])
    of_both = {place: value for place, value in table.items() if not place[2].startswith("energy/")}
    assert of_both == whole
    assert {row for row, _, _ in whole} == {"whole", "filtered"}
    assert ("whole", "ours", "sizes/mean") in whole and ("whole", "ours", "energy/ratio") in table
    shown = {place: value for place, value in of_page(told["page"]).items() if place[1].startswith("ours")}
    assert {place: shown.get(place) for place in table} == table
    lines = told["printed"].splitlines()
    for row in ("whole", "filtered"):
        start = max(index for index, line in enumerate(lines) if line.startswith(f"{row} "))  # above it is the plan
        part = "\n".join(lines[start : start + 4])
        values = [value for (label, _, column), value in table.items() if label == row and "/" not in column]
        assert len(values) >= 2 and all(f"{value}±" in part for value in values)
    scalars = [value for (row, _, column), value in table.items() if row == "whole" and "/" in column]
    assert len(scalars) >= 2 and all(scalar in told["printed"] for scalar in scalars)


def test_a_failed_row_is_told_in_each_way_with_its_reason(told: Mapping[str, Any]) -> None:
    failed = [trial for trial in told["json"]["trials"] if trial["row"] == "failing"]
    assert [trial["state"] for trial in failed] == ["failed"] * len(SEEDS) and not any(t["metrics"] for t in failed)
    [line] = [line for line in told["csv"] if line["row"] == "failing"]
    assert line["state"] == "failed" and not line["natural"]
    for reason in {trial["reason"] for trial in failed}:
        for text in (told["printed"], line["notes"], html.unescape(told["page"])):
            assert " ".join(reason.split()) in " ".join(text.split())


def test_a_report_prints_the_json_that_the_launch_printed(told: Mapping[str, Any]) -> None:
    assert told["report --json"] == told["report --storage --json"] == told["json"]
    assert told["json"]["left_out"] == []


@pytest.mark.parametrize("network", ["last", "best"])
def test_a_page_from_storage_says_what_one_from_mlflow_says_less_its_links(
    told: Mapping[str, Any], network: Any
) -> None:
    one, other = (page_of([results], {}) for results in (tracked(told["plan"], network), told["stored"](network)))
    assert one.facts == other.facts and dict(one.facts)["Devices"].startswith("cpu: ")
    [shown], [again] = one.spaces, other.spaces
    assert (shown.runs or {}).keys() >= {("whole", "ours"), ("whole", "published")} and again.runs is None
    assert repr(shown.verdicts) == repr(again.verdicts)  # where a number is nan it equals nothing, itself neither
    assert replace(shown, runs=None, verdicts=(), pages=()) == replace(again, verdicts=())
    assert "MLflow" in render(one) and "MLflow" not in render(other)


def lines_of(printed: str) -> list[str]:
    """The table, its caption and its verdicts, as a launch ends with them."""
    lines = [line.rstrip() for line in printed.splitlines()]
    start = max(index for index, line in enumerate(lines) if line.endswith("Told in four ways"))
    return lines[start : next(index for index in range(start, len(lines)) if "trainings failed" in lines[index])]


@pytest.mark.parametrize("mlflow", ["not asked", "away", "gone at the end"])
def test_a_table_is_printed_from_storage_where_mlflow_has_none(
    told: Mapping[str, Any], mlflow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise TrackingError("no answer")

    if mlflow == "away":
        monkeypatch.setattr(BackgroundSync, "close", lambda *_: False)
    elif mlflow == "gone at the end":
        monkeypatch.setattr(Tracker, "read_plan", lost)
    code, printed = launch_here(
        options_of(told["folder"], seeds=list(SEEDS), tracking=mlflow != "not asked", tracking_uri=told["uri"])
    )
    assert code == told["code"]
    assert lines_of(printed) == lines_of(told["printed"]) != []
    assert "PGD-20" in printed and "it trains" in printed


def test_a_machine_without_scipy_says_that_the_table_is_made_elsewhere(
    told: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "find_spec", lambda _: None)
    code, printed = launch_here(options_of(told["folder"], seeds=list(SEEDS)))
    assert code == told["code"] and "No table on this machine, which has no scipy" in printed
    assert "Told in four ways" not in printed.split("No table")[1]


@pytest.mark.parametrize("network", ["last", "best"])
def test_mlflow_and_storage_give_the_same_results(told: Mapping[str, Any], network: Any) -> None:
    one: Results = tracked(told["plan"], network)
    other: Results = told["stored"](network)
    assert results_as_json([one]) == results_as_json([other])
    assert one.problems == other.problems and one.outcomes.keys() == other.outcomes.keys() != set()
    for place, outcome in one.outcomes.items():
        again = other.outcomes[place]
        assert outcome.values == again.values
        assert (outcome.training_key, outcome.test_key, outcome.images) == (
            again.training_key,
            again.test_key,
            again.images,
        )
        assert outcome.correct.keys() == again.correct.keys() != set()
        assert all((outcome.correct[column] == again.correct[column]).all() for column in outcome.correct)
        assert outcome.curves["train/loss"] == again.curves["train/loss"]
    assert results_as_json([other]) == told["json"]
