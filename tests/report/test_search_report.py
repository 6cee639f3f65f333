"""A search read back from MLflow: its best, its front, what matters, and its figures."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from ablate.launch.options import Options
from ablate.launch.request import Request
from ablate.launch.session import launch
from ablate.planning.plan_file import plan_file_of
from ablate.report import from_tracking
from ablate.report.__main__ import print_space, table_of
from ablate.report.contents import space_page
from ablate.report.figures.search import pictures, rungs
from ablate.report.from_storage import results_of
from ablate.report.page import render_space
from ablate.report.page_files import page_files
from ablate.report.search import (
    SampleResult,
    SearchSummary,
    best_space,
    coordinates,
    importances,
    pareto_front,
    search_of,
)
from ablate.spaces.loading import load_space
from ablate.spaces.search import SearchSpec
from ablate.storage.storage import Storage
from ablate.tracking.tracker import Tracker
from tests.support import search_helpers
from tests.support.helpers import plan_of
from tests.support.search_helpers import SEARCH, write_search

pytestmark = pytest.mark.slow

PARAMETERS = {
    "training.learning_rate": {"loguniform": [0.01, 1]},
    "training.momentum": {"uniform": [0.1, 0.9]},
    "model.quantization.fat": {"choice": [True, False]},
    "model.quantization.fat_learning_rate": {"loguniform": [0.01, 1], "when": {"model.quantization.fat": True}},
}


def made_up(two: bool = False, count: int = 24) -> SearchSummary:
    """Samples whose first objective hangs on the learning rate alone, and the second on the momentum alone."""
    objective: Any = {"metric": "validation/natural"}
    if two:
        objective = [objective, {"metric": "validation/robust"}]
    scheduler = "fifo" if two else {"name": "asha", "grace_epochs": 2, "reduction": 2}
    search = SearchSpec.model_validate(
        {**SEARCH, "parameters": PARAMETERS, "objective": objective, "scheduler": scheduler, "samples": count}
    )
    from ablate.planning.samplers import RandomSampler

    sampler, samples = RandomSampler(search), []
    for number in range(count):
        values = sampler.values(number)
        assert values is not None
        reached = (50 + 20 * np.log10(values["training.learning_rate"]), 30 + 40 * values["training.momentum"])
        stopped = not two and number % 3 == 2
        epochs = 2 if stopped else 8
        metrics = ("validation/natural", "validation/robust")[: 2 if two else 1]
        curves = {m: {e: v * e / 8 for e in range(1, epochs + 1)} for m, v in zip(metrics, reached, strict=False)}
        samples.append(
            SampleResult(
                f"sample {number}",
                values,
                "stopped" if stopped else "complete",
                () if stopped else tuple(float(v) for v in reached[: len(metrics)]),
                curves,
                {"training": {"epochs": 8}},
            )
        )
    return SearchSummary("made_up", "Made up", "abc", "digits", search, samples)


def sample(label: str, *objectives: float) -> SampleResult:
    return SampleResult(label, {}, "complete", objectives)


def test_the_pareto_front_has_what_nothing_beats() -> None:
    two = search_helpers.search_of(
        objective=[{"metric": "validation/natural"}, {"metric": "validation/robust"}], scheduler="fifo"
    )
    samples = [sample("a", 80, 30), sample("b", 70, 40), sample("c", 69, 39), sample("d", 80, 20), sample("e", 60, 50)]
    found = SearchSummary("s", "t", "p", "digits", two, [*samples, SampleResult("f", {}, "stopped")])
    assert [each.label for each in pareto_front(found)] == ["a", "b", "e"]
    lower = search_helpers.search_of(objective={"metric": "validation/natural", "mode": "min"})
    one = SearchSummary("s", "t", "p", "digits", lower, [sample("a", 3), sample("b", 2), sample("c", 2)])
    assert [each.label for each in pareto_front(one)] == ["b"]
    assert best_space(SearchSummary("s", "t", "p", "digits", lower, [])) is None


def test_importances_find_what_the_objective_hangs_on() -> None:
    first = importances(made_up())
    assert first is not None
    assert max(first.shares, key=lambda path: first.shares[path]) == "training.learning_rate"
    assert first.shares["training.learning_rate"] > 0.7
    assert sum(first.shares.values()) == pytest.approx(1)
    second = importances(made_up(two=True), 1)
    assert second is not None and next(iter(second.shares)) == "training.momentum"
    assert importances(made_up(count=5)) is None


def test_stopped_samples_are_compared_where_they_were() -> None:
    found = made_up()
    early = [sample for sample in found.samples if sample.state == "stopped"]
    seen = importances(SearchSummary(**{**vars(found), "samples": early}))
    assert seen is not None and (seen.epoch, seen.samples) == (2, len(early))


def test_coordinates_go_from_zero_to_one_and_mark_what_is_not_searched() -> None:
    found = made_up()
    rate = found.search.parameters["training.learning_rate"]
    ends = [SampleResult("", {"training.learning_rate": value}, "open") for value in (0.01, 0.1, 1.0)]
    assert coordinates(rate, "training.learning_rate", ends) == pytest.approx([0, 0.5, 1])
    mask = found.search.parameters["model.quantization.fat_learning_rate"]
    assert set(coordinates(mask, "model.quantization.fat_learning_rate", ends)) == {-0.25}


@pytest.mark.parametrize("two", [False, True])
def test_every_figure_is_drawn_small_and_the_same_again(two: bool) -> None:
    drawn = pictures(made_up(two))
    third = "search-front" if two else "search-progress"
    assert list(drawn) == ["search-curves", third, "search-parallel", "search-importance"]
    for picture in drawn.values():
        assert len(picture.png) < 200_000 and picture.svg.startswith(b"<?xml")
        assert np.asarray(Image.open(io.BytesIO(picture.png)).convert("L")).std() > 5  # no empty canvas
        assert picture.caption.endswith((".", "%."))
    assert pictures(made_up(two))["search-parallel"].png == drawn["search-parallel"].png


def test_rungs_are_those_of_successive_halving() -> None:
    assert rungs(made_up()) == [2, 4]
    assert rungs(made_up(two=True)) == []


def test_nothing_to_draw_from_nothing() -> None:
    found = made_up()
    assert pictures(SearchSummary(**{**vars(found), "samples": []})) == {}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, template: Path) -> tuple[Path, Tracker, SearchSummary]:
    folder = tmp_path_factory.mktemp("reported")
    write_search(folder, base={"training.epochs": 3})
    shutil.copyfile(template, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    options = Options(
        space=[str(folder / "tiny_search.yaml")],
        storage=str(folder / "storage"),
        tracking_uri=uri,
        local=True,
        cpus_per_trial=1,
    )
    assert launch(Request.read(options), Console(file=io.StringIO(), width=120)) == 0
    return folder, Tracker(uri), search_of(results_of(plan_file_of(plan_of(options)), Storage(options.storage)))


def test_mlflow_holds_what_storage_holds(reported: tuple[Path, Tracker, SearchSummary]) -> None:
    _, tracker, stored = reported
    plan = tracker.read_plan("tiny_search")
    found = search_of(from_tracking.results_of(plan))
    assert found.search == stored.search
    assert [vars(sample) | {"spec": None} for sample in found.samples] == [
        vars(sample) | {"spec": None} for sample in stored.samples
    ]
    assert {"complete", "stopped"} == {sample.state for sample in found.samples}
    stopped = [trial for trial in plan.trials.values() if trial.tags["ablate.state"] == "stopped"]
    assert all((trial.problem or "").startswith("stopped early after epoch") for trial in stopped)
    assert plan.info.status == "FINISHED"


def test_the_page_has_the_figures_and_the_best_as_a_space(
    reported: tuple[Path, Tracker, SearchSummary], tmp_path: Path
) -> None:
    _, tracker, stored = reported
    files = page_files([from_tracking.results_of(tracker.read_plan("tiny_search"))])
    assert {"tiny_search_best.yaml", "tiny_search/figure-search-curves.svg"} <= files.keys()
    page = files["index.html"].decode()
    best = pareto_front(stored)[0]
    assert best.label in page and "tiny_search_best.yaml" in page
    (tmp_path / "tiny_search_best.yaml").write_bytes(files["tiny_search_best.yaml"])
    assert files["tiny_search_best.yaml"].decode() == best_space(stored)
    row = load_space(str(tmp_path / "tiny_search_best.yaml")).space.rows[0]
    assert row.set == dict(best.values)
    assert yaml.safe_load(files["tiny_search_best.yaml"])["base"]["data.name"] == "digits"


def test_the_terminal_tells_the_best_and_its_file(reported: tuple[Path, Tracker, SearchSummary]) -> None:
    _, tracker, stored = reported
    out = Console(file=io.StringIO(), width=140)
    print_space(tracker, "tiny_search", None, out)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "Best on the validation split:" in text
    assert pareto_front(stored)[0].label in text
    assert "base:" in text and "rows:" in text
    assert "What matters for validation/natural (6 samples" in text
    table = text[: text.index("Best on the validation split:")]
    in_order = [line.split() for line in table.splitlines() if line.startswith("sample ")]
    assert [" ".join(words[:2]) for words in in_order] == [sample.label for sample in stored.ranked]
    leading = [next(word for word in words if re.fullmatch(r"\d+\.\d\d", word)) for words in in_order]
    assert leading == [f"{sample.objectives[0]:.2f}" for sample in stored.ranked]
    assert "sorted by Validation natural, on images held out of training" in " ".join(table.split())


def test_every_table_of_a_search_begins_with_its_objective_best_first(
    reported: tuple[Path, Tracker, SearchSummary],
) -> None:
    _, tracker, stored = reported
    results = from_tracking.results_of(tracker.read_plan("tiny_search"))
    best = [f"{sample.objectives[0]:.2f}" for sample in stored.ranked]
    assert len(best) > 1 and best == sorted(best, key=float, reverse=True)
    table = table_of(results)
    assert table.columns[0] == "validation/natural" and table.rows[0].lines[0].cells["validation/natural"].best
    page = render_space(space_page(results, {}))
    heads = re.findall(r'<th scope="col" class="number">([^<]*)</th>', page)
    assert [" ".join(head.split()) for head in heads[:2]] == ["Validation natural", "Natural"]
    rows = re.findall(r'class="ours">.*?class="number">(?:<strong>)?([\d.]+)', page, re.DOTALL)
    assert rows == best


def test_stopping_early_is_no_failure_on_the_page(reported: tuple[Path, Tracker, SearchSummary]) -> None:
    _, tracker, stored = reported
    page = page_files([from_tracking.results_of(tracker.read_plan("tiny_search"))])["index.html"].decode()
    assert "Failed and missing" not in page
    assert "by which nothing was chosen" in page
    assert f"{sum(sample.state == 'stopped' for sample in stored.samples)} samples stopped early left out" in page
