"""How a plan's runs lie in MLflow, by this version and by those that nested them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.storage.plans import PlanFile
from ablate.storage.storage import Storage
from ablate.tracking import layout, views
from ablate.tracking.store import DataInput, Run
from tests.support.tracking_world import T0, Tracker, finish, plan_of


def sent(make: Callable[[], Tracker], plan: PlanFile, storage: Storage) -> Tracker:
    tracker = make()
    tracker.open_plan(plan, storage)
    tracker.sync(plan, storage)
    return tracker


def runs_of(tracker: Tracker) -> dict[str, Run]:
    store = tracker.store
    return {run.name: run for run in store.runs(store.experiment("batch_size") or "")}


def nest(tracker: Tracker) -> dict[str, str]:
    """Runs as versions before sent them: below the plan's run, with every setting, without a place; their ids."""
    runs = runs_of(tracker)
    for run in runs.values():
        parent = run.tags.get(layout.PLAN_RUN)
        if parent is not None:
            tracker.store.log(run, tags={layout.PARENT: parent})
            for tag in (layout.PLAN_RUN, layout.PLACE):
                tracker.store.untag(run, tag)
    experiment = next(iter(runs.values())).experiment
    for tag in tracker.store.experiment_tags(experiment):
        tracker.store.client.delete_experiment_tag(experiment, tag)
    return {run.name: run.id for run in runs.values()}


def test_rows_sort_by_their_place_as_the_table_does(make: Callable[[], Tracker], storage: Storage) -> None:
    plan = plan_of(("512", "64", "128"), (1, 0))
    finish(storage, plan)
    rows = [run for run in runs_of(sent(make, plan, storage)).values() if layout.PLACE in run.tags]
    assert [run.name for run in sorted(rows, key=lambda run: run.tags[layout.PLACE])] == [
        f"{row} · {what}" for row in ("512", "64", "128") for what in ("published", "seed 1", "seed 0")
    ]


def test_parameters_are_what_varies(make: Callable[[], Tracker], storage: Storage) -> None:
    """Also settings of a part that other rows have not; never what all rows and seeds share."""
    plan = plan_of(("512", "256"), (0, 1))
    for trial in plan.trials:
        trial.spec["training"]["ema"] = {"decay": 0.99} if trial.row == "256" else None
    finish(storage, plan)
    runs = runs_of(sent(make, plan, storage))
    assert runs["512 · seed 1"].params == {
        "row": "512", "seed": "1", "training.batch_size": "512", "training.ema": "none",
    }  # fmt: skip
    assert runs["256 · published"].params == {
        "row": "256", "seed": "published", "training.batch_size": "256", "training.ema.decay": "0.99",
    }  # fmt: skip


def test_a_searchs_parameters_are_those_searched_however_many_samples_there_are() -> None:
    plan = plan_of(("4", "2"))
    searched = {"training.lr": {"uniform": [0.0, 1.0]}, "training.batch_size": {"choice": [1, 2]}}
    space = plan.spaces[0].model_copy(update={"search": {"parameters": searched}})
    for trials in ([], plan.trials[:1], plan.trials):
        assert layout.varying(space, trials) == ["training.batch_size", "training.lr"]


def test_data_sets_are_told_and_one_of_several_at_once_is_no_error(
    make: Callable[[], Tracker], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(("512",))
    finish(storage, plan)
    tracker = sent(make, plan, storage)
    runs = runs_of(tracker)
    assert runs["512 · seed 0"].data == {("digits 16x16", "train"), ("digits 16x16", "test")}
    assert runs["512 · published"].data == {("as published", "published")}
    (training,) = tracker.store.runs(tracker.store.experiment("training") or "")
    assert training.data == {("digits 16x16", "train")}
    client, refused = tracker.store.client, [True]
    whole = client.log_inputs

    def log_inputs(*arguments: object) -> None:
        if refused and refused.pop():
            raise ValueError("UNIQUE constraint failed: datasets.name")
        whole(*arguments)

    monkeypatch.setattr(client, "log_inputs", log_inputs)
    tracker.store.log_data(training, [DataInput("mine", "0" * 64, "test", None)])
    (training,) = tracker.store.runs(training.experiment)
    assert ("mine", "0" * 36) in training.data


def test_experiments_are_described_and_what_a_user_writes_there_stays(
    make: Callable[[], Tracker], storage: Storage
) -> None:
    plan = plan_of(("512",))
    tracker = make()
    tracker.open_plan(plan, storage)
    tracker.log_report("all", {})
    store = tracker.store
    for name, said in (("batch_size", plan.spaces[0].title), ("training", "trained network"), ("report", "Pages")):
        assert said in store.experiment_tags(store.experiment(name) or "")[views.NOTE]
    experiment = store.experiment("batch_size") or ""
    store.describe(experiment, {views.NOTE: "mine"})
    make().open_plan(plan, storage)
    assert store.experiment_tags(experiment)[views.NOTE] == "mine"


def test_the_view_is_of_its_plan_and_storage_alone(
    make: Callable[[], Tracker], storage: Storage, tmp_path: Path
) -> None:
    other, plan, later = Storage(str(tmp_path / "other")), plan_of(("512",)), plan_of(("512",), plan_id="bbbbbbbbbb")
    paths = []
    for each, place in ((plan, storage), (plan, other), (later, storage)):
        finish(place, each)
        paths += sent(make, each, place).paths(each.id)
    tracker = make()
    tags = tracker.store.experiment_tags(tracker.store.experiment("batch_size") or "")
    shown = []
    for rows, compare in paths:
        key = parse_qs(urlsplit(rows.removeprefix("/#")).query)["viewStateShareKey"][0]
        state = json.loads(json.loads(tags[f"{views.VIEW}{key}"])["state"])
        tag, value = state["searchFilter"].removeprefix("tags.`").split("` = ")
        found = {run.id for run in tracker.store.runs(run_experiment(tracker), {tag: value.strip("'")})}
        assert set(json.loads(parse_qs(urlsplit(compare.removeprefix("/#")).query)["runs"][0])) == found
        shown.append(found)
    assert [len(found) for found in shown] == [2, 2, 2] and len(set.union(*shown)) == 6


def run_experiment(tracker: Tracker) -> str:
    return tracker.store.experiment("batch_size") or ""


@pytest.mark.parametrize(("count", "length"), [(0, 1), (3, 12), (30, 60), (400, 1)])
def test_a_view_fits_in_its_tag_and_drops_the_last_columns_first(count: int, length: int) -> None:
    names = [f"{number:03d}{'x' * length}" for number in range(count)]
    plan = plan_of(("512",))
    told = views.view_of(plan, plan.spaces[0], "0" * 32, names)
    assert len(told) < 5000
    state, envelope = json.loads(json.loads(told)["state"]), json.loads(told)
    assert all(envelope[name] == value for name, value in state.items())
    whole = [f"params.`{name}`" for name in ("row", "seed", *names)]
    there = [column for column in state["selectedColumns"] if column.startswith("params")]
    assert there == whole[: len(there)] and "metrics.`accuracy/pgd20`" in state["selectedColumns"]


@given(st.integers(0, 50), st.integers(0, 12), st.booleans())
def test_what_is_compared_is_as_many_whole_seeds_as_there_is_room_for(rows: int, seeds: int, published: bool) -> None:
    labels = [f"r{row}" for row in range(rows)]
    trials = {(row, seed): f"{row} {seed}" for row in labels for seed in range(seeds)}
    told = {row: f"{row} published" for row in labels} if published else {}
    found = views.compared(trials, told, labels)
    assert len(set(found)) == len(found) <= views.COMPARED
    assert found == sorted(found, key=lambda run: labels.index(run.split()[0]))
    if 0 < len(found) < views.COMPARED:  # nothing is left out that would fit for every row
        fitting = len(found) // rows - published
        assert fitting == seeds or rows * (fitting + 1 + published) > views.COMPARED


def test_rows_that_were_not_asked_for_are_not_compared() -> None:
    told = {"a": "a published", "b": "b published"}
    assert views.compared({("b", 0): "b 0"}, told, ["a", "b"]) == ["b published", "b 0"]
    assert views.compared({}, told, ["a", "b"]) == ["a published", "b published"]


def test_nested_runs_of_versions_before_are_read_and_lie_flat_once_they_are_sent_again(
    make: Callable[[], Tracker], storage: Storage
) -> None:
    plan = plan_of(("512", "256"))
    finish(storage, plan)
    sent(make, plan, storage)
    ids = nest(make())
    read = make().read_plan("batch_size")
    assert read.problems == {} and read.altered == [] and read.info.view == ""
    assert set(read.published_runs) == {"512", "256"}
    own = make().store.create(run_experiment(make()), "mine", {layout.PARENT: ids["512 · seed 0"]}, T0)
    tracker = sent(make, plan, storage)
    assert tracker.repairs == []
    runs = runs_of(tracker)
    assert {name: run.id for name, run in runs.items() if name != "mine"} == ids
    assert [run.id for run in runs.values() if layout.PARENT in run.tags] == [own.id]  # a user's own stays where it is
    rows = [run for run in runs.values() if run.tags.get("ablate.kind") in ("trial", "published")]
    assert {run.tags[layout.PLAN_RUN] for run in rows} == {ids[f"batch_size · paper · {plan.id}"]}
    assert make().read_plan("batch_size").info.view != ""


@pytest.mark.parametrize("nested", [False, True])
def test_a_row_that_names_another_plan_is_found_by_its_plans_run(
    make: Callable[[], Tracker], storage: Storage, nested: bool
) -> None:
    plan = plan_of(("512", "256"))
    finish(storage, plan)
    tracker = sent(make, plan, storage)
    if nested:
        nest(tracker)
    wrong = runs_of(tracker)["512 · seed 0"]
    tracker.store.log(wrong, tags={"ablate.plan": "ffffffffff"})
    assert any("512 · seed 0" in told for told in make().read_plan("batch_size").altered)
    assert sent(make, plan, storage).repairs == ["batch_size: 512 · seed 0"]
    read = make().read_plan("batch_size")
    assert read.problems == {} and read.altered == []


@pytest.mark.parametrize("what", ["512 · published", "512 · seed 0"])
@pytest.mark.parametrize("edited", ["tag", "parameter"])
def test_a_run_whose_row_is_not_the_one_it_names_is_made_again(
    make: Callable[[], Tracker], storage: Storage, what: str, edited: str, tmp_path: Path
) -> None:
    plan = plan_of(("512", "256"))
    finish(storage, plan)
    tracker = sent(make, plan, storage)
    wrong = runs_of(tracker)[what]
    if edited == "tag":
        tracker.store.log(wrong, tags={"ablate.row": "256"})
    else:
        with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
            database.execute("UPDATE params SET value = 'x' WHERE key = 'row' AND run_uuid = ?", (wrong.id,))
    sent(make, plan, storage)
    runs = [run for run in runs_of(make()).values() if "row" in run.params]
    assert len(runs) == 4
    assert all(run.params["row"] == run.tags["ablate.row"] == run.name.split(" · ")[0] for run in runs)
