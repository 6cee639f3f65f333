"""The page's contents out of MLflow: what was shared, whose numbers, where runs are, what cannot be drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ablate.core.registry import temporary_registrations
from ablate.report.contents import draw_all, figure_data, page_of
from ablate.report.figures.pictures import Picture
from ablate.report.from_tracking import results_of
from ablate.report.page import Link, Missing, render
from ablate.report.page_files import page_files, write_page
from ablate.spaces.figures import Drawing, FigureData, register_figure
from ablate.storage.plans import PlanFile
from ablate.storage.records import Record
from ablate.storage.storage import Storage
from tests.support.figure_data import seen
from tests.support.tracking_world import T0, Tracker, measure, plan_of, train

SERVER = "http://host:5000/"


def with_figures(plan: PlanFile, *names: str) -> PlanFile:
    return plan.model_copy(update={"spaces": [plan.spaces[0].model_copy(update={"figures": list(names)})]})


def fill(storage: Storage, plan: PlanFile, broken: str | None = None) -> None:
    for number, (key, trials) in enumerate(plan.trainings().items()):
        if key == broken:
            train(storage, key, 1).save_failure("loss became nan in epoch 2", "", T0 + 5)
            continue
        attempt = train(storage, key)
        for trial in trials:
            for name, record in trial.analyses.items():
                base = name.removesuffix("_best")
                own = {
                    array.partition("/")[2]: value + (name != base if value.dtype.kind == "f" else 0)
                    for array, value in seen(number).arrays.items()
                    if array.startswith(f"{base}/") and value.dtype.kind == "f"
                }
                attempt.save_record(Record(record, {f"{base}/share": float(name != base)}, own, {"timestamp_ms": T0}))
            measure(attempt, trial.model_copy(update={"analyses": {}}))


@pytest.fixture(scope="module")
def tracker(at: Callable[[Path], Tracker], tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("world")
    storage, tracker = Storage(str(folder / "storage")), at(folder)
    metrics = ("accuracy/natural", "accuracy_best/natural")
    shared = plan_of(("32", "16"), (0, 1), space="lowpass", shared=True, plan_id="1" * 10, salt="s")
    broken = plan_of(("a", "b"), plan_id="2" * 10, metrics=metrics, analyses=("cka", "cka_best"))
    broken = with_figures(broken, "5", "6", "2", "exploding", "unknown")
    fill(storage, shared)
    fill(storage, broken, broken=list(broken.trainings())[1])
    for plan in (shared, broken):
        tracker.sync(plan, storage)
    return tracker


@pytest.fixture(autouse=True)
def _own_figure() -> Iterator[None]:
    def exploding(data: FigureData) -> Drawing | None:
        raise ZeroDivisionError("no <rows>")

    with temporary_registrations():
        register_figure("exploding", title="Boom")(exploding)
        yield


def test_rows_that_share_a_training_are_counted_once(tracker: Tracker) -> None:
    facts = dict(page_of([results_of(tracker.read_plan("lowpass"))], {}).facts)
    assert facts["Shared"].startswith("2 trainings for 4 trials, one for each would train ")
    assert facts["Trials"] == "4 of 4 finished, in 1 space"
    assert facts["Commit"] == "c0ffee"
    assert facts["Devices"].startswith("cpu: ")


def test_time_is_told_by_device_and_that_of_unmeasured_trainings_apart(tracker: Tracker) -> None:
    plan = results_of(tracker.read_plan("lowpass"))
    for spent, told in ((30.0, "cpu: 30 s of training; 30 s of trainings without a measurement"), (0.1, "cpu: < 1 s")):
        trials = {
            (row, seed): dataclasses.replace(trial, device="" if seed else "cpu", curves={"seconds": {1: spent}})
            for (row, seed), trial in plan.trials.items()
        }
        assert len({trial.part.training for trial in trials.values()}) == 2
        devices = dict(page_of([dataclasses.replace(plan, trials=trials)], {}).facts)["Devices"]
        assert devices.startswith(told) and ("without" in devices) == ("without" in told)


def test_failures_are_counted_and_named(tracker: Tracker) -> None:
    page = page_of([results_of(tracker.read_plan(name)) for name in ("lowpass", "batch_size")], {})
    assert dict(page.facts)["Trials"] == "5 of 6 finished, in 2 spaces"
    assert page.spaces[0].problems == []
    assert page.spaces[1].problems == ["b, seed 0: failed: loss became nan in epoch 2"]
    assert "loss became nan" in render(page)


def test_a_figure_that_cannot_be_drawn_says_why_and_spoils_no_other(tracker: Tracker) -> None:
    drawn = draw_all(results_of(tracker.read_plan("batch_size")))
    assert isinstance(drawn["5"], Picture) and isinstance(drawn["6"], Picture)
    assert drawn["2"] == Missing(
        "Figure 2: Where the perturbation’s energy lies", "no row has been measured for it yet."
    )
    assert drawn["exploding"] == Missing("Boom", "could not be drawn (ZeroDivisionError: no <rows>).")
    unknown = drawn["unknown"]
    assert isinstance(unknown, Missing) and "--import" in unknown.reason


def test_rows_that_did_not_finish_are_in_no_figure(tracker: Tracker) -> None:
    data = figure_data(results_of(tracker.read_plan("batch_size")))
    assert list(data.rows) == ["a"]
    assert data.rows["a"][0].curves["energy/ratio"].keys() == {0, 1, 2, 3}
    assert "nothing" not in data.rows["a"][0].curves


def test_last_and_best_networks_have_their_own_arrays_and_numbers(tracker: Tracker) -> None:
    plan = tracker.read_plan("batch_size")
    last, best = (figure_data(results_of(plan, network)).rows["a"][0] for network in ("last", "best"))
    assert np.allclose(best.arrays["cka/matrix"], last.arrays["cka/matrix"] + 1)
    assert (last.scalars["cka/share"], best.scalars["cka/share"]) == (0.0, 1.0)
    assert not any("best" in name for name in (*last.arrays, *best.arrays))


def test_runs_are_linked_on_a_server_that_a_browser_reaches(tracker: Tracker) -> None:
    plan = tracker.read_plan("lowpass")
    for server, linked in ((SERVER, True), (None, False), ("javascript:alert(1)", False)):
        page = page_of([results_of(plan)], {}, server=server)
        links = page.spaces[0].runs["32", "ours"]
        assert [link.text for link in links] == ["seed 0", "seed 1"]
        assert all(isinstance(link, Link) and (link.url is not None) == linked for link in links)
        assert bool(page.spaces[0].pages) == linked
    link = page_of([results_of(plan)], {}, server=SERVER).spaces[0].runs["32", "published"][0]
    assert link.url == f"http://host:5000/#/experiments/{plan.info.experiment_id}/runs/{plan.published_runs['32']}"


def test_page_and_figures_are_written_and_kept_in_mlflow(tracker: Tracker, tmp_path: Path) -> None:
    plans = [results_of(tracker.read_plan(name)) for name in ("lowpass", "batch_size")]
    written = write_page(tracker, plans, tmp_path / "new" / "report")
    drawn = [f"{space}/figure-{name}" for space in ("lowpass", "batch_size") for name in ("columns", "training")]
    drawn += [f"batch_size/figure-{name}" for name in "56"]
    names = ["index.html", *(f"{name}.{kind}" for name in drawn for kind in ("png", "svg"))]
    assert [path.relative_to(tmp_path / "new" / "report").as_posix() for path in written] == names
    store = tracker.store
    experiment = store.experiment("report")
    assert experiment is not None
    (run,) = store.runs(experiment)
    assert run.status == "FINISHED" and run.tags["ablate.spaces"] == "lowpass, batch_size"
    for path, name in zip(written, names, strict=True):
        assert store.download(run.id, name) == path.read_bytes()


def test_no_space_of_that_report_run_disturbs_the_next_report(tracker: Tracker) -> None:
    assert tracker.list_plans("report") == []
    files = page_files([results_of(tracker.read_plan("lowpass"))])
    assert {name.partition("/")[0] for name in files} == {"index.html", "lowpass"}
