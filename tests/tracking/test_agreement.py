"""What MLflow shows is what storage holds: stale, mixed, edited and foreign runs."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from ablate.core.errors import StorageError
from ablate.report import __main__ as report
from ablate.report.from_tracking import keep_storages_apart
from ablate.storage import plans as plans_module
from ablate.storage.plans import PlanFile
from ablate.storage.storage import Storage
from ablate.tracking.agreement import ARTIFACTS, CURVES, DIGEST, SENT_FROM, STORAGE
from ablate.tracking.reading import storage_label
from ablate.tracking.store import Run
from tests.support.tracking_world import EPOCHS, T0, Tracker, finish, measure, plan_of, train


@pytest.fixture
def plan() -> PlanFile:
    return plan_of(analyses=("spectrum",))


def sync(make: Callable[[], Tracker], plan: PlanFile, storage: Storage, *, whole: bool = False) -> list[str]:
    """As a new process; what was repaired."""
    tracker = make()
    tracker.open_plan(plan, storage=storage)
    tracker.sync(plan, storage, whole=whole)
    return tracker.repairs


def assert_shows(make: Callable[[], Tracker], plan: PlanFile, storage: Storage) -> None:
    """Every value, curve and artifact that a report reads is the one that storage holds, and nothing is there twice."""
    read = make().read_plan("batch_size", plan.id, storage.identify())
    assert read.problems == {} and read.altered == []
    for (row, seed), trial in read.trials.items():
        view = storage.view(trial.part.training)
        for metric, key in trial.part.columns.items():
            record = storage.record(view, key)
            assert record is not None
            assert trial.metrics[metric] == record.scalars["accuracy"], (row, metric)
            assert np.array_equal(read.correct(row, seed)[metric], record.arrays["correct"])
        for metric in ("train/loss", "energy/ratio"):
            expected = [(entry["epoch"], entry["metrics"][metric]) for entry in storage.history(trial.part.training)]
            assert read.curve(row, seed, metric) == expected
            points = make().store.history(trial.training_run_id or "", metric)
            assert len(points) == len(expected)
    mine = [run for run in runs_of(make(), "batch_size") if run.tags.get(STORAGE) == storage.identify()]
    names = [run.name for run in mine if run.tags["ablate.plan"] == plan.id]
    assert len(names) == len(set(names))


def runs_of(tracker: Tracker, experiment: str) -> list[Run]:
    return tracker.store.runs(tracker.store.experiment(experiment) or "")


def one(tracker: Tracker, experiment: str, name: str) -> Run:
    (run,) = [run for run in runs_of(tracker, experiment) if run.name.startswith(name)]
    return run


def forget_ids(tracker: Tracker) -> None:
    """Runs as a version before sent them."""
    for experiment in ("batch_size", "training"):
        for run in runs_of(tracker, experiment):
            for tag in (STORAGE, DIGEST, CURVES, SENT_FROM, ARTIFACTS):
                tracker.store.untag(run, tag)


def state(tracker: Tracker, storage_id: str) -> dict[str, object]:
    """All that runs of one storage hold."""
    return {
        run.id: (run.name, run.status, run.metrics, run.params, run.tags)
        for experiment in ("batch_size", "training")
        for run in runs_of(tracker, experiment)
        if run.tags.get(STORAGE) == storage_id
    }


def test_a_storage_is_known_by_an_id_of_its_own(tmp_path: Path) -> None:
    first, second = Storage(str(tmp_path / "one")), Storage(str(tmp_path / "two"))
    assert first.identities() == []
    assert first.identify() == first.identify() == Storage(str(tmp_path / "one")).identify() != second.identify()
    known = first.identify()
    shutil.move(tmp_path / "one", tmp_path / "moved")
    assert Storage(str(tmp_path / "moved")).identify() == known
    shutil.copytree(tmp_path / "two", tmp_path / "moved", dirs_exist_ok=True)
    assert set(Storage(str(tmp_path / "moved")).identities()) == {known, second.identify()}


def test_a_storage_that_cannot_be_written_is_sent_all_the_same(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(storage, plan)

    def refuse(*_: object) -> None:
        raise StorageError("read-only file system")

    monkeypatch.setattr(storage.files, "write", refuse)
    assert sync(make, plan, storage) == sync(make, plan, storage, whole=True) == []
    assert_shows(make, plan, storage)


def test_a_storage_moved_away_leaves_its_runs_alone_and_the_new_one_has_its_own(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile, tmp_path: Path
) -> None:
    finish(storage, plan)
    sync(make, plan, storage)
    shutil.move(storage.location, tmp_path / "away")
    away = Storage(str(tmp_path / "away"))
    before = state(make(), away.identify())
    later = plan.model_copy(update={"launched_ms": T0 + 10})
    finish(storage, later, again=1)
    assert sync(make, later, storage) == []
    assert_shows(make, later, storage)
    assert_shows(make, plan, away)
    assert state(make(), away.identify()) == before
    newest = make().read_plan("batch_size")
    assert newest.info.storage == storage.identify()
    assert [other.storage for other in newest.others] == [away.identify()]
    out = Console(file=io.StringIO(), width=200)
    report.print_space(make(), "batch_size", None, out)
    text = " ".join(out.file.getvalue().split())  # type: ignore[attr-defined]
    assert f"other numbers in storage {storage_label(away.identify())}" in text
    assert f"storage {storage_label(storage.identify())}, not {storage_label(away.identify())}" in text


def test_a_training_of_a_removed_storage_is_not_gone_on_with(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile
) -> None:
    """Killed after epoch 1, its storage removed, launched again: no run holds epochs of both."""
    key = plan.trials[0].training
    train(storage, key, 1)
    sync(make, plan, storage)
    shutil.rmtree(storage.location)
    new = Storage(storage.location)
    attempt = train(new, key, 2, again=1)
    sync(make, plan, new)
    train(new, key, EPOCHS, attempt, again=1)
    measure(attempt, plan.trials[0], again=1)
    finish(new, plan, [plan.trials[1].training])
    sync(make, plan, new)
    assert_shows(make, plan, new)


@pytest.mark.parametrize("epochs", [1, 2, EPOCHS])
def test_a_training_removed_from_the_same_storage_takes_the_place_of_the_former(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile, epochs: int
) -> None:
    key = plan.trials[0].training
    finish(storage, plan)
    sync(make, plan, storage)
    shutil.rmtree(Path(storage.location) / key)
    attempt = train(storage, key, epochs, again=1)
    repaired = sync(make, plan, storage)
    assert any(told.startswith("training: ") for told in repaired)
    train(storage, key, EPOCHS, attempt, again=1)
    measure(attempt, plan.trials[0], again=1)
    sync(make, plan, storage)
    assert_shows(make, plan, storage)
    assert sync(make, plan, storage, whole=True) == []


def test_records_made_again_with_other_numbers_are_shown(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile
) -> None:
    finish(storage, plan)
    sync(make, plan, storage)
    measure(storage.attempt(plan.trials[0].training), plan.trials[0], again=1)
    assert sync(make, plan, storage) == ["batch_size: 512 · seed 0"]
    assert_shows(make, plan, storage)


def test_nothing_of_a_former_network_is_shown_once_a_training_was_made_anew(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile
) -> None:
    finish(storage, plan)
    sync(make, plan, storage)
    trial = plan.trials[0]
    storage.prune(trial.training)
    attempt = train(storage, trial.training, again=1, anew=True)
    measure(attempt, trial, count=1, again=1)
    sync(make, plan, storage)
    read = make().read_plan("batch_size", plan.id, storage.identify())
    assert read.problems.keys() == {(trial.row, trial.seed)}
    assert len([name for name in read.trials[trial.row, trial.seed].metrics if name in trial.columns]) == 1
    measure(attempt, trial, again=1)
    sync(make, plan, storage)
    assert_shows(make, plan, storage)


EDITS = [
    ("batch_size", "512 · seed", "accuracy/pgd20", 0),
    ("batch_size", "256 · seed", "accuracy/of my own", 0),
    ("batch_size", "256 · published", "accuracy/pgd20", 0),
    ("training", "resnet20 · 512", "train/loss", EPOCHS),
    ("training", "resnet20 · 256", "energy/ratio", 1),
]


@pytest.mark.parametrize("timestamp", [None, 5], ids=["now", "long ago"])
@pytest.mark.slow
def test_values_edited_by_hand_are_repaired(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile, timestamp: int | None
) -> None:
    finish(storage, plan)
    sync(make, plan, storage)
    store = make().store
    edited = {}
    for experiment, name, metric, step in EDITS:
        wrong = one(make(), experiment, name)
        store.client.set_tag(wrong.id, "my note", "keep me")
        child = store.create(wrong.experiment, "mine", {"mlflow.parentRunId": wrong.id}, 1)
        store.client.log_metric(wrong.id, metric, 99.0, timestamp=timestamp, step=step)
        changed = one(make(), experiment, name).metrics != wrong.metrics
        edited[experiment, name] = (wrong, child, changed)
    repaired = sync(make, plan, storage)
    assert len(repaired) == sum(changed for _, _, changed in edited.values()) > 0  # a launch compares latest values
    repaired += sync(make, plan, storage, whole=True)
    assert sorted(told.split(": ")[0] for told in repaired) == sorted(experiment for experiment, *_ in EDITS)
    assert_shows(make, plan, storage)
    for (experiment, name), (wrong, child, _) in edited.items():
        right = one(make(), experiment, name)
        assert right.id != wrong.id and right.tags["my note"] == "keep me"
        assert [r.tags["mlflow.parentRunId"] for r in runs_of(make(), experiment) if r.id == child.id] == [right.id]
        assert store.client.get_run(wrong.id).info.lifecycle_stage == "deleted"
        store.client.restore_run(wrong.id)  # as a user may
    sync(make, plan, storage, whole=True)
    assert_shows(make, plan, storage)
    assert sync(make, plan, storage, whole=True) == []


def test_a_report_from_mlflow_alone_leaves_out_and_names_what_was_changed(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile
) -> None:
    finish(storage, plan)
    sync(make, plan, storage)
    shutil.rmtree(storage.location)
    tracker = make()
    run = one(tracker, "batch_size", "512 · seed")
    tracker.store.client.log_metric(run.id, "accuracy/pgd20", 99.0)
    curve = one(tracker, "training", "resnet20 · 256")
    tracker.store.client.log_metric(curve.id, "energy/ratio", 99.0, step=1)
    read = make().read_plan("batch_size")
    assert list(read.problems) == [("512", 0)] and read.trials["512", 0].metrics == {}
    assert read.curve("256", 0, "energy/ratio") == [] != read.curve("256", 0, "train/loss")
    out = Console(file=io.StringIO(), width=200)
    report.print_space(make(), "batch_size", None, out)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "99.00" not in text and "512 · seed 0: its numbers are not those that were sent" in text
    assert [told.split(":")[0] for told in read.altered][-1].startswith("resnet20 · 256")


def test_artifacts_that_were_changed_are_not_read_and_are_sent_again(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile
) -> None:
    finish(storage, plan)
    sync(make, plan, storage)
    tracker = make()
    trial, training = one(tracker, "batch_size", "512 · seed"), one(tracker, "training", "resnet20 · 512")
    other = tracker.store.download(one(tracker, "batch_size", "256 · seed").id, "measurements.npz") or b""
    tracker.store.upload(trial, "measurements.npz", other)
    tracker.store.upload(training, "networks/last.pt", b"mine")
    read = make().read_plan("batch_size")
    assert read.correct("512", 0) == {} and "measurements.npz" in read.altered[0]
    sync(make, plan, storage, whole=True)
    assert_shows(make, plan, storage)
    assert tracker.store.download(training.id, "networks/last.pt") != b"mine"


def test_the_networks_of_a_pruned_training_move_to_the_run_that_replaces_it(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile
) -> None:
    finish(storage, plan)
    sync(make, plan, storage)
    for key in plan.trainings():
        storage.prune(key)
    tracker = make()
    wrong = one(tracker, "training", "resnet20 · 512")
    network = tracker.store.download(wrong.id, "networks/last.pt")
    tracker.store.client.log_metric(wrong.id, "train/loss", 99.0, step=EPOCHS)
    assert len(sync(make, plan, storage)) == 1
    right = one(make(), "training", "resnet20 · 512")
    assert right.id != wrong.id and make().store.download(right.id, "networks/last.pt") == network is not None


def test_links_of_other_plans_follow_a_training_that_is_replaced(make: Callable[[], Tracker], storage: Storage) -> None:
    first = plan_of(plan_id="1111111111")
    second = plan_of(plan_id="2222222222", metrics=["accuracy/natural"])
    for plan in (first, second):
        finish(storage, plan)
        sync(make, plan, storage)
    tracker = make()
    wrong = one(tracker, "training", "resnet20 · 512")
    tracker.store.client.log_metric(wrong.id, "train/loss", 99.0, step=EPOCHS)
    assert len(sync(make, first, storage)) == 1
    for plan in (first, second):
        assert_shows(make, plan, storage)


def test_runs_of_a_version_before_are_adopted_where_they_agree(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile
) -> None:
    finish(storage, plan)
    sync(make, plan, storage)
    forget_ids(make())
    assert make().read_plan("batch_size").problems == {}
    before = {run.id for name in ("batch_size", "training") for run in runs_of(make(), name)}
    assert sync(make, plan, storage) == []
    assert {run.id for name in ("batch_size", "training") for run in runs_of(make(), name)} == before
    assert set(state(make(), storage.identify())) == before
    assert_shows(make, plan, storage)


def test_runs_of_a_version_before_that_do_not_agree_are_left_alone(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile
) -> None:
    finish(storage, plan)
    sync(make, plan, storage)
    forget_ids(make())
    shutil.rmtree(storage.location)
    storage = Storage(storage.location)
    later = plan.model_copy(update={"launched_ms": T0 + 10})
    finish(storage, later, again=1)
    before = {run.id: run.metrics for run in runs_of(make(), "batch_size")}
    assert sync(make, later, storage) == []
    assert_shows(make, later, storage)
    after = {run.id: run.metrics for run in runs_of(make(), "batch_size") if STORAGE not in run.tags}
    assert after == before
    assert [storage_label(other.storage) for other in make().read_plan("batch_size").others] == ["unknown"]


def test_files_of_another_storage_copied_in_bring_their_runs_with_them(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile, tmp_path: Path
) -> None:
    there = Storage(str(tmp_path / "gpu"))
    first, second = plan.trainings()
    finish(there, plan, [first])
    sync(make, plan, there)
    storage.identify()
    finish(storage, plan, [second])
    shutil.copytree(there.location, storage.location, dirs_exist_ok=True)
    assert sync(make, plan, storage) == []
    assert len(runs_of(make(), "training")) == 2
    assert_shows(make, plan, storage)


def test_a_report_never_shows_one_training_from_two_storages(make: Callable[[], Tracker], tmp_path: Path) -> None:
    one_of = plan_of(plan_id="1111111111", space="batch_size")
    other = plan_of(plan_id="2222222222", space="lowpass", rows=("512", "32"), launched_ms=T0 + 10)
    for number, plan in enumerate((one_of, other)):
        storage = Storage(str(tmp_path / plan.id))
        finish(storage, plan, again=number)
        sync(make, plan, storage)
    plans = [make().read_plan("batch_size"), make().read_plan("lowpass")]
    keep_storages_apart(plans)
    assert list(plans[0].problems) == [("512", 0)] and plans[1].problems == {}


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(report.app, list(arguments))


def test_the_command_line_repairs_and_chooses_a_storage(
    make: Callable[[], Tracker], storage: Storage, plan: PlanFile, tmp_path: Path, cli: Callable[..., Result]
) -> None:
    other = Storage(str(tmp_path / "other"))
    for number, each in enumerate((storage, other)):
        finish(each, plan, again=number)
        launched = plan.model_copy(update={"launched_ms": T0 + number})
        plans_module.save(launched, each)
        sync(make, launched, each)
    newest, label = cli().stdout, storage_label(storage.identify())
    asked = cli("--storage-id", label).stdout
    assert newest != asked and storage_label(other.identify()) in newest
    tracker = make()
    run = next(run for run in runs_of(tracker, "batch_size") if run.name == "512 · seed 0")
    tracker.store.client.log_metric(run.id, "accuracy/natural", 99.0)
    mine = Storage(str(tmp_path / ("storage" if run.tags[STORAGE] == storage.identify() else "other")))
    result = cli("--sync", "--storage", mine.location)
    assert result.exit_code == 0, result.output
    assert "Repaired 1 run in MLflow that differed from storage" in result.stdout
    assert "99.00" not in result.stdout and "left out" not in result.stdout
    refused = cli("--storage-id", "ffffffff")
    assert refused.exit_code == 2 and "--storage-id: expected a storage" in refused.stderr
