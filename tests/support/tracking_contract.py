"""What tracking promises over every store it supports; subclasses say which store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ablate.core.errors import TrackingError
from ablate.report import __main__ as report
from ablate.report.from_tracking import results_of
from ablate.report.verdicts.verdicts import verdicts_of
from ablate.storage.plans import PlanFile
from ablate.storage.storage import Storage
from tests.support.tracking_world import (
    EPOCHS,
    T0,
    Crash,
    Tracker,
    correct_of,
    dump,
    dying_clients,
    finish,
    history_of,
    measure,
    plan_of,
    train,
)

Make = Callable[[], Tracker]


class TrackingContract:
    """Subclasses bring the fixture `make`: each call gives a new tracker, as a new process has it, on one store."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return Storage(str(tmp_path / "storage"))

    @pytest.fixture
    def plan(self) -> PlanFile:
        return plan_of(analyses=("spectrum",))

    def test_every_number_arrives_with_its_own_step_and_time(
        self, make: Make, storage: Storage, plan: PlanFile
    ) -> None:
        tracker = make()
        finish(storage, plan, best=True)
        tracker.open_plan(plan)
        assert tracker.sync(plan, storage) == []
        results = tracker.read_plan("batch_size")
        for (row, seed), trial in results.trials.items():
            key = trial.part.training
            for metric in ("train/loss", "energy/ratio"):
                assert trial.training_run_id is not None
                points = tracker.store.history(trial.training_run_id, metric)
                sent = [(point.step, point.timestamp_ms, point.value) for point in points]
                assert sent == [
                    (entry["epoch"], entry["timestamp_ms"], entry["metrics"][metric])
                    for entry in history_of(key, EPOCHS)
                ]
            for metric, measured in trial.part.columns.items():
                right = correct_of(measured)
                assert trial.metrics[metric] == pytest.approx(100 * right.mean())
                assert np.array_equal(results.correct(row, seed)[metric], right)
            assert np.array_equal(results.arrays(row, seed)["spectrum/spectrum"], np.arange(6.0).reshape(2, 3))
            assert trial.metrics["spectrum/share"] == 0.25
            assert trial.metrics["energy/ratio"] == history_of(key, EPOCHS)[-1]["metrics"]["energy/ratio"]
            assert trial.run is not None and trial.run.end_ms == T0 + 9000
            assert trial.tags["ablate.device"] == "cpu"

    def test_runs_are_named_and_tagged_as_the_ui_shows_them(self, make: Make, storage: Storage, plan: PlanFile) -> None:
        tracker = make()
        finish(storage, plan, best=True)
        tracker.sync(plan, storage)
        store = tracker.store
        runs = {run.name: run for run in store.runs(store.experiment("batch_size") or "")}
        assert set(runs) == {
            f"batch_size · paper · {plan.id}",
            *("512 · seed 0", "512 · published", "256 · seed 0", "256 · published"),
        }
        parent, ours, published = (
            runs[name] for name in (f"batch_size · paper · {plan.id}", "512 · seed 0", "512 · published")
        )
        assert {run.status for run in runs.values()} == {"FINISHED"}
        assert not any("mlflow.parentRunId" in run.tags for run in runs.values())  # MLflow would fold them away
        assert ours.tags["ablate.plan_run_id"] == published.tags["ablate.plan_run_id"] == parent.id
        assert ours.params == {"row": "512", "seed": "0", "training.batch_size": "512"}
        assert published.params == ours.params | {"seed": "published"}
        assert ours.tags["ablate.source"] == "reproduced"
        assert published.tags["ablate.source"] == "published"
        assert set(published.metrics) <= set(ours.metrics)  # or Compare would show two tables
        for tag in ("row", "table", "seed", "plan", "training_key", "training_run_id", "data", "git_commit"):
            assert ours.tags[f"ablate.{tag}"]
        trainings = store.runs(store.experiment("training") or "")
        assert {run.tags["ablate.training_key"] for run in trainings} == set(plan.trainings())
        assert not any(name.startswith("measurement.") for run in trainings for name in run.params)
        assert all(run.params["data.root"] == "none" for run in trainings)
        assert {run.tags["ablate.networks"] for run in trainings} == {"last, best"}
        assert tracker.store.download(trainings[0].id, "networks/last.pt")

    def test_sending_again_changes_nothing(self, make: Make, storage: Storage, plan: PlanFile) -> None:
        finish(storage, plan)
        tracker = make()
        tracker.sync(plan, storage)
        before = dump(tracker)
        tracker.sync(plan, storage)
        other = make()
        other.open_plan(plan)
        other.sync(plan, storage)
        assert dump(other) == before

    def test_in_parts_is_the_same_as_at_once(self, make: Make, storage: Storage, plan: PlanFile) -> None:
        tracker = make()
        first, second = plan.trainings().items()
        tracker.open_plan(plan)
        attempt = train(storage, first[0], 1)
        assert first[0] in tracker.sync(plan, storage, [first[0]])
        assert tracker.read_plan("batch_size").problems["512", 0] == "not finished, training"
        train(storage, first[0], 2, attempt)
        tracker.sync(plan, storage, [first[0]])
        train(storage, first[0], EPOCHS, attempt)
        measure(attempt, first[1][0], 1)
        tracker.sync(plan, storage, [first[0]])
        assert tracker.read_plan("batch_size").problems["512", 0] == "not finished, measuring"
        measure(attempt, first[1][0])
        finish(storage, plan, [second[0]])
        assert tracker.sync(plan, storage) == []
        for trial in tracker.read_plan("batch_size").trials.values():
            assert trial.problem is None
            curve = tracker.read_plan("batch_size").curve(trial.part.row, 0, "train/loss")
            assert curve == [(e["epoch"], e["metrics"]["train/loss"]) for e in history_of(trial.part.training, EPOCHS)]

    def test_a_process_that_dies_after_any_call_leaves_nothing_doubled(
        self, make: Make, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = plan_of(rows=("512",))
        finish(storage, plan)
        left = dying_clients(monkeypatch)
        for lives in range(3, 100, 2):
            left[0] = lives
            tracker = Tracker(make().store.uri)
            left[0] = lives
            try:
                tracker.open_plan(plan)
                tracker.sync(plan, storage)
                break
            except Crash:
                continue
        else:
            pytest.fail("never came to an end")
        monkeypatch.undo()
        content = dump(make(), ids=False)  # fails if anything is there twice
        assert len(content) == 4
        for points in (entry[-1] for entry in content.values()):
            for of_metric in points.values():
                assert len(of_metric) == len({point.step for point in of_metric})

    def test_failures_show_their_reason_until_they_are_mended(
        self, make: Make, storage: Storage, plan: PlanFile
    ) -> None:
        tracker = make()
        first, second = plan.trainings().items()
        attempt = train(storage, first[0], 1)
        attempt.save_failure("loss became nan in epoch 2", "traceback", T0 + 5000)
        assert set(tracker.sync(plan, storage)) == {first[0], second[0]}
        results = tracker.read_plan("batch_size")
        assert results.problems == {
            ("512", 0): "failed: loss became nan in epoch 2",
            ("256", 0): "not trained",
        }
        trial = results.trials["512", 0]
        store = tracker.store
        statuses = {run.id: run.status for name in ("batch_size", "training") for run in store.runs(
            store.experiment(name) or ""
        )}  # fmt: skip
        assert statuses[trial.run_id or ""] == statuses[trial.training_run_id or ""] == "FAILED"
        finish(storage, plan)
        other = make()
        assert other.sync(plan, storage) == []
        mended = other.read_plan("batch_size").trials["512", 0]
        assert (mended.problem, mended.run_id) == (None, trial.run_id)
        assert "ablate.failure" not in mended.tags
        assert other.read_plan("batch_size").info.status == "FINISHED"

    def test_a_failed_measurement_fails_its_rows_alone(self, make: Make, storage: Storage) -> None:
        plan = plan_of(shared=True)
        (key, trials), *_ = plan.trainings().items()
        attempt = train(storage, key)
        measure(attempt, trials[0])
        attempt.save_failure("cw20: out of memory", "", T0 + 9500)
        tracker = make()
        assert tracker.sync(plan, storage) == [key]
        results = tracker.read_plan("batch_size")
        assert results.problems == {("256", 0): "failed: cw20: out of memory"}
        assert results.info.status == "FAILED"

    def test_rows_that_share_a_training_share_its_run(self, make: Make, storage: Storage) -> None:
        tracker, plan = make(), plan_of(shared=True)
        finish(storage, plan)
        tracker.sync(plan, storage)
        one, two = tracker.read_plan("batch_size").trials.values()
        assert one.training_run_id == two.training_run_id
        assert one.run_id != two.run_id
        assert one.metrics != two.metrics

    def test_plans_never_mix(self, make: Make, storage: Storage) -> None:
        tracker = make()
        one = plan_of(plan_id="1111111111", salt="one", launched_ms=T0)
        two = plan_of(plan_id="2222222222", salt="two", launched_ms=T0 + 10)
        same = plan_of(plan_id="3333333333", salt="two", launched_ms=T0 + 20, metrics=["accuracy/natural"])
        for each in (two, one, same):
            finish(storage, each)
            tracker.sync(each, storage)
        assert [info.id for info in tracker.list_plans("batch_size")] == [same.id, two.id, one.id]
        assert tracker.read_plan("batch_size").info.id == same.id
        for each in (one, two):
            for trial in tracker.read_plan("batch_size", each.id).trials.values():
                expected = {m: 100 * correct_of(key).mean() for m, key in trial.part.columns.items()}
                assert {m: trial.metrics[m] for m in expected} == pytest.approx(expected)
        store = tracker.store
        assert len(store.runs(store.experiment("training") or "")) == 4  # the third plan's are the second's
        with pytest.raises(TrackingError, match=r"expected a plan of batch_size.*'999'"):
            tracker.read_plan("batch_size", "999")
        with pytest.raises(TrackingError, match="did you mean 'batch_size'"):
            tracker.read_plan("batch_sizes")

    def test_launched_again_a_plan_is_the_latest_and_the_same(self, make: Make, storage: Storage) -> None:
        old = plan_of(plan_id="1111111111", launched_ms=T0)
        new = plan_of(plan_id="2222222222", launched_ms=T0 + 10)
        tracker = make()
        for each in (old, new):
            tracker.open_plan(each)
        again = old.model_copy(update={"launched_ms": T0 + 20})
        make().open_plan(again)
        assert [info.id for info in tracker.list_plans("batch_size")] == [old.id, new.id]

    def test_the_report_needs_mlflow_alone(self, make: Make, storage: Storage) -> None:
        claim = {"says": "larger is better", "above": {"row": "512", "rows": ["256"], "metrics": ["natural"]}}
        trend = {"says": "R grows", "trend": {"row": "512", "metrics": ["energy/ratio"]}}
        metrics = ["accuracy/natural", "accuracy_adaptive/natural"]
        plan = plan_of(seeds=(0, 1, 2), claims=[claim, trend], metrics=metrics)
        finish(storage, plan)
        make().sync(plan, storage)
        shutil.rmtree(storage.location)
        results = make().read_plan("batch_size")
        table = report.table_of(results_of(results))
        assert [row.label for row in table.rows] == ["512", "256"]
        for row in table.rows:
            ours = next(line for line in row.lines if line.source == "ours")
            keys = [t.part.columns["accuracy/natural"] for (r, _), t in results.trials.items() if r == row.label]
            assert ours.cells["natural"].value == pytest.approx(np.mean([100 * correct_of(key).mean() for key in keys]))
            assert {line.source for line in row.lines} == {"published", "ours", "ours, adaptive"}
        verdicts = verdicts_of(results_of(results))
        assert len(verdicts) == 2
        assert "test images" in verdicts[0][0].test  # from per-image correctness
        assert verdicts[1][0].comparisons[0].effect == pytest.approx(1.0)  # from the curves

    def test_differences_only_on_the_papers_data(self, make: Make, storage: Storage) -> None:
        tracker = make()
        for paper in (False, True):
            plan = plan_of(paper=paper, plan_id="1234567890" if paper else "0987654321", salt=str(paper))
            finish(storage, plan)
            tracker.sync(plan, storage)
            table = report.table_of(results_of(tracker.read_plan("batch_size", plan.id)))
            sources = {line.source for row in table.rows for line in row.lines}
            assert ("difference" in sources) == paper

    def test_best_and_last_networks_are_told_apart(self, make: Make, storage: Storage) -> None:
        metrics = ["accuracy/natural", "accuracy_best/natural"]
        plan = plan_of(metrics=metrics, analyses=("spectrum", "spectrum_best"))
        finish(storage, plan)
        tracker = make()
        tracker.sync(plan, storage)
        read = tracker.read_plan("batch_size")
        for network, metric in (("last", metrics[0]), ("best", metrics[1])):
            outcome = results_of(read, network).outcomes["512", 0]  # type: ignore[arg-type]
            right = correct_of(read.trials["512", 0].part.columns[metric])
            assert outcome.values["natural"] == pytest.approx(100 * right.mean())
            assert np.array_equal(outcome.correct["natural"], right)
            assert set(outcome.correct) == {"natural"}
            assert ("spectrum/share" in outcome.values) == (network == "last")
            assert ("spectrum_best/share" in outcome.values) == (network == "best")

    def test_a_published_name_that_mlflow_refuses_keeps_nothing_else_back(
        self, make: Make, storage: Storage, plan: PlanFile
    ) -> None:
        space = plan.spaces[0]
        rows = [row.model_copy(update={"published": {"pgd@20": 42.0}}) for row in space.rows]
        plan = plan.model_copy(update={"spaces": [space.model_copy(update={"rows": rows})]})
        finish(storage, plan)
        tracker = make()
        with pytest.raises(TrackingError, match="pgd@20"):
            tracker.sync(plan, storage)
        assert tracker.read_plan("batch_size").problems == {}

    def test_what_is_trained_and_has_no_numbers_is_not_called_untrained(
        self, make: Make, storage: Storage, plan: PlanFile
    ) -> None:
        finish(storage, plan)
        tracker = make()
        tracker.sync(plan, storage)
        for trial in tracker.read_plan("batch_size").trials.values():
            tracker.store.client.delete_run(trial.run_id)
        assert set(tracker.read_plan("batch_size").problems.values()) == {"not measured"}

    def test_runs_deleted_in_the_ui_come_back(self, make: Make, storage: Storage, plan: PlanFile) -> None:
        finish(storage, plan)
        tracker = make()
        tracker.sync(plan, storage)
        read = tracker.read_plan("batch_size")
        store = tracker.store
        for trial in read.trials.values():
            store.client.delete_run(trial.run_id)
            store.client.delete_run(trial.training_run_id)
        assert set(tracker.read_plan("batch_size").problems.values()) == {"not trained"}
        other = make()
        other.sync(plan, storage)
        assert other.read_plan("batch_size").problems == {}

    def test_a_run_deleted_while_a_launch_goes_on_is_found_missing(
        self, make: Make, storage: Storage, plan: PlanFile
    ) -> None:
        (key, _), *_ = plan.trainings().items()
        tracker = make()
        attempt = train(storage, key, 1)
        tracker.sync(plan, storage, [key])
        tracker.store.client.delete_run(tracker.read_plan("batch_size").trials["512", 0].training_run_id)
        train(storage, key, 2, attempt)
        with pytest.raises(TrackingError):
            tracker.sync(plan, storage, [key])
        tracker.sync(plan, storage, [key])
        trial = tracker.read_plan("batch_size").trials["512", 0]
        assert [epoch for epoch, _ in tracker.read_plan("batch_size").curve("512", 0, "train/loss")] == [0, 1, 2]
        assert trial.training_run_id

    def test_of_runs_created_twice_all_launches_keep_the_same(
        self, make: Make, storage: Storage, plan: PlanFile
    ) -> None:
        one, two = make(), make()
        one.open_plan(plan)
        two.open_plan(plan)  # both know of no trial yet
        finish(storage, plan)
        one.sync(plan, storage)
        two.sync(plan, storage)
        make().open_plan(plan)
        content = dump(make(), ids=False)
        assert len(content) == 7  # fails if anything is there twice
        assert make().read_plan("batch_size").problems == {}

    def test_an_interrupted_plan_does_not_look_as_if_it_ran(self, make: Make, storage: Storage, plan: PlanFile) -> None:
        (key, _), *_ = plan.trainings().items()
        tracker = make()
        train(storage, key, 1)
        tracker.sync(plan, storage)
        tracker.interrupt(plan)
        results = tracker.read_plan("batch_size")
        assert results.info.status == "KILLED"
        assert results.problems["512", 0] == "interrupted while training"
        other = make()
        other.open_plan(plan)
        finish(storage, plan)
        assert other.sync(plan, storage) == []
        assert other.read_plan("batch_size").problems == {}
        assert other.read_plan("batch_size").info.status == "FINISHED"

    def test_settings_that_are_in_no_key_may_change_between_launches(
        self, make: Make, storage: Storage, plan: PlanFile
    ) -> None:
        (key, _), *_ = plan.trainings().items()
        train(storage, key, 1)
        make().sync(plan, storage)
        moved = [t.model_copy(update={"spec": {**t.spec, "data": {"root": "/elsewhere"}}}) for t in plan.trials]
        finish(storage, plan)
        assert make().sync(plan.model_copy(update={"trials": moved}), storage) == []

    def test_a_report_is_kept_as_a_run(self, make: Make) -> None:
        tracker = make()
        run_id = tracker.log_report("all", {"index.html": b"<html>", "figures/2.svg": b"<svg>"})
        assert tracker.store.download(run_id, "figures/2.svg") == b"<svg>"
        assert tracker.store.download(run_id, "nothing.html") is None
        assert tracker.spaces() == []

    def test_trials_follow_their_trainings_run_when_it_is_replaced(
        self, make: Make, storage: Storage, plan: PlanFile
    ) -> None:
        finish(storage, plan)
        tracker = make()
        tracker.sync(plan, storage)
        before = tracker.read_plan("batch_size").trials["512", 0].training_run_id
        tracker.store.client.delete_run(before)
        other = make()
        other.sync(plan, storage)
        read = other.read_plan("batch_size")
        assert read.trials["512", 0].training_run_id not in (None, before)
        assert [epoch for epoch, _ in read.curve("512", 0, "train/loss")] == list(range(EPOCHS + 1))
