"""In a real browser: the report page, and MLflow's own table of a space's rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ablate.report.__main__ import app
from ablate.report.page import Link, PageData, SpacePage, render
from ablate.report.tables import Cell, Line, Row, Table
from ablate.spaces.specs import COLUMNS
from ablate.storage.plans import PlanFile
from ablate.storage.records import Record
from ablate.storage.storage import Storage
from tests.support.browser import Browser, browse, executable
from tests.support.figure_data import seen
from tests.support.mlflow_server import Server
from tests.support.tracking_world import T0, Tracker, measure, plan_of, train

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="needs Chromium, e.g. apt-get install chromium"),
]

ANALYSES = ("spectrum", "first_kernels", "kernel_spectra", "cka", "quantized_kernels")
FIGURES = ["2", "3", "4", "5", "6", "7", "8"]
ROWS = ("Natural", "Adversarial")
PAPER = 687
"""Pixels of A4 between the page's margins."""

CLAIMS = [
    {"says": "adversarial is better", "above": {"row": "Adversarial", "rows": ["Natural"], "metrics": ["pgd20"]}},
    {"says": "mainly low", "value": {"row": "Natural", "at_least": 0.5, "metrics": ["spectrum/share"]}},
]


_ROWS = """
Object.values([...document.querySelectorAll('.ag-row')].reduce((rows, part) => {
  const row = rows[part.getAttribute('row-id')] ??= {place: Number(part.getAttribute('row-index'))};
  for (const cell of part.querySelectorAll('[col-id]')) row[cell.getAttribute('col-id')] = cell.innerText.trim();
  row.name ??= part.querySelector('[col-id*="Run Name"]')?.innerText.trim().split('\\n').pop();
  return rows;
}, {}))
"""
"""What MLflow's table shows: for each row its place, and the text of every column."""


def plan() -> PlanFile:
    """Two rows, two seeds, every figure, published numbers, a claim."""
    made = plan_of(ROWS, (0, 1), space="frequency", analyses=ANALYSES, claims=CLAIMS, paper=True)
    return made.model_copy(update={"spaces": [made.spaces[0].model_copy(update={"figures": FIGURES})]})


def fill(storage: Storage, plan: PlanFile) -> None:
    """What workers would have left, with arrays of the shapes that figures need; the last training failed."""
    *done, failing = plan.trainings().items()
    for number, (key, trials) in enumerate(done):
        attempt = train(storage, key)
        arrays = seen(number).arrays
        for trial in trials:
            for analysis, record in trial.analyses.items():
                own = {
                    name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{analysis}/")
                }
                scalars = {f"{analysis}/share": 0.25 + number / 8}
                attempt.save_record(Record(record, scalars, own, {"device": "cpu", "timestamp_ms": T0 + 9000}))
            measure(attempt, trial.model_copy(update={"analyses": {}}))
    train(storage, failing[0], 1).save_failure("loss became nan in epoch 2", "", T0 + 5)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browse(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    storage, tracker = Storage(str(tmp_path_factory.mktemp("storage"))), Tracker(server.uri)
    tracker.prepare()
    fill(storage, plan())
    tracker.sync(plan(), storage)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def page(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    done = CliRunner().invoke(app, ["--space", "all", "--out", str(out), "--tracking-uri", server.uri])
    assert done.exit_code == 0, done.output
    return out / "index.html"


def test_the_page_opens_from_disk_with_its_tables_figures_and_no_error(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    assert browser.errors == []
    assert browser.evaluate("document.querySelectorAll('table').length") == 2
    shown = browser.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 300)))")
    assert shown == [True] * len(["columns", "verdicts", "training", *FIGURES])
    text = browser.evaluate("document.body.innerText")
    for words in ("Adversarial", "42.50", "loss became nan in epoch 2", "adversarial is better", "not enough evidence"):
        assert words in text


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, page: Path, width: int) -> None:
    browser.resize(width, 800, phone=width < 600)
    browser.open(page.as_uri())
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    browser.resize(1280, 900)


@pytest.mark.parametrize("rows, scalars", [(3, 2), (24, 3), (16, 14)])
def test_no_table_is_wider_than_the_paper(browser: Browser, tmp_path: Path, rows: int, scalars: int) -> None:
    columns = [*COLUMNS, "apgd_ce", "apgd_t", "fab_t", "square", "aa", "worst", "pgd20_low", "pgd20_high"]
    columns += [f"an_analysis/of_long_name_{number}" for number in range(scalars)]
    cells = {column: Cell(71.25, 1.25, best=True) for column in columns}
    lines = (Line("published", cells), Line("ours", cells, 3), Line("ours, adaptive", cells, 3))
    table = Table("Wide", tuple(columns), tuple(Row(f"Natural high-pass {row}", lines) for row in range(rows)))
    links = [Link(f"seed {seed}", None, f"{seed}a" * 16) for seed in range(3)]
    runs = {(row.label, "ours"): links for row in table.rows}
    written = tmp_path / "index.html"
    written.write_text(render(PageData("Wide", "now", [], [SpacePage("wide", "Wide", "", table, runs=runs)])))
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.resize(PAPER, 900)
    browser.open(written.as_uri())
    wide = browser.evaluate("[...document.querySelectorAll('table')].map(table => table.getBoundingClientRect().right)")
    browser.call("Emulation.setEmulatedMedia", media="")
    browser.resize(1280, 900)
    assert len(wide) == 2 and max(wide) <= PAPER


def test_the_first_key_leads_past_the_contents(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().left") >= 0


def test_dark_where_the_reader_prefers_it_and_colour_maps_on_white_all_the_same(browser: Browser, page: Path) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        browser.open(page.as_uri())
        colours[scheme] = [
            browser.evaluate(f"getComputedStyle(document.querySelector('{element}')).backgroundColor")
            for element in ("body", ".picture:not(.lines)", ".picture.lines")
        ]
    browser.prefer("light")
    assert colours["light"] == ["rgb(255, 255, 255)"] * 3
    assert colours["dark"] == ["rgb(22, 24, 27)", "rgb(255, 255, 255)", "rgb(22, 24, 27)"]


def test_a_number_leads_to_its_run_in_mlflow(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    address = browser.evaluate("document.querySelector('tr.ours .runs a').href")
    browser.open(address)
    browser.wait_for("document.body.innerText.includes('Natural · seed 0')")


@pytest.fixture(scope="module")
def printed(server: Server) -> list[str]:
    """The addresses that the report prints: of the runs, and of Compare."""
    told = CliRunner().invoke(app, ["--space", "frequency", "--tracking-uri", server.uri])
    assert told.exit_code == 0, told.output
    return [line.strip() for line in told.stdout.splitlines() if line.strip().startswith(server.uri)]


def test_the_printed_address_opens_the_table_with_ours_beside_the_published(
    browser: Browser, server: Server, printed: list[str]
) -> None:
    """Rows in the table's order, with their accuracies, parameters and data set, and nothing to unfold."""
    results = Tracker(server.uri).read_plan("frequency")
    browser.resize(2200, 1000)
    browser.open(printed[0])
    names = [f"{row} · {what}" for row in ROWS for what in ("published", "seed 0", "seed 1")]
    browser.wait_for(f"document.body.innerText.includes('{names[-1]}')")
    browser.wait_for("document.querySelector('.ag-row [col-id*=Dataset]').innerText.includes('published')")
    found = browser.evaluate(_ROWS)
    lines = {each["name"]: each for each in sorted(found, key=lambda each: each["place"])}
    assert list(lines) == names
    for row in ROWS:
        told = {"published": results.space.published[row]["pgd20"]}
        told |= {f"seed {seed}": results.trials[row, seed].metrics.get("accuracy/pgd20") for seed in (0, 1)}
        for what, number in told.items():
            line = lines[f"{row} · {what}"]
            assert line["metrics.`accuracy/pgd20`"] == ("-" if number is None else f"{number:.15g}")
            assert (line["params.`row`"], line["params.`seed`"]) == (row, what.removeprefix("seed "))
            assert ("as published" if what == "published" else "CIFAR-10") in line["attributes.`Dataset`"]


def test_the_printed_address_of_compare_shows_the_numbers_beside_the_published(
    browser: Browser, server: Server, printed: list[str]
) -> None:
    results = Tracker(server.uri).read_plan("frequency")
    browser.open(printed[1])
    browser.wait_for("document.body.innerText.includes('No common artifacts')")
    wanted = [results.trials[row, 0].metrics["accuracy/pgd20"] for row in ROWS]
    table = "[...document.querySelectorAll('table')].map(table => table.innerText).join('\\n')"
    for number in [*wanted, results.space.published["Natural"]["pgd20"]]:
        browser.wait_for(f"({table}).includes('{number:g}') || document.body.innerText.includes('{number:g}')")
    text = browser.evaluate("document.body.innerText")
    assert "accuracy/pgd20" in text and all(f"{row} · published" in text for row in ROWS)
    assert "unknown" not in text  # a published row has every parameter
    assert "Something went wrong" not in text
    browser.resize(1280, 900)
