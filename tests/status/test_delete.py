"""A plan deleted: what nothing else uses goes, after it was said and asked; what others use or hold stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ablate.status.__main__ import app
from ablate.status.deletion import what_goes
from ablate.storage import leases, plans, replications
from ablate.storage.plans import PlanFile
from ablate.storage.storage import Storage
from tests.support.helpers import numbers
from tests.support.stored import content
from tests.support.tracking_world import T0, Tracker, finish, plan_of

ONE, OTHER = "a" * 10, "b" * 10


def asked(storage: Storage, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["--storage", storage.location, *arguments])
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, in which no MLflow store is found that was not meant."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Two plans: the other shares the row 256 of the first, and measures one column less of it."""
    storage = Storage(str(tmp_path / "storage"))
    storage.identify()
    one = plan_of(("512", "256"), (0,), plan_id=ONE)
    other = plan_of(("256",), (0,), plan_id=OTHER, metrics=("accuracy/natural",), launched_ms=T0 + 1)
    finish(storage, one)
    for plan in (one, other):
        plans.save(plan, storage)
    storage.files.write("registrations/abc.json", b"{}")
    return storage


def keys(plan: PlanFile) -> dict[str, str]:
    return {trial.row: trial.training for trial in plan.trials}


def test_what_nothing_else_uses_goes_and_all_else_stays(storage: Storage) -> None:
    one = plans.load(storage, ONE)
    alone, shared = keys(one)["512"], keys(one)["256"]
    storage.files.write("weights/abc", b"of the one")
    storage.files.write("weights/def", b"of both")
    storage.files.write(f"{alone}/training.json", b'{"weights": "abc", "also": "def"}')
    storage.files.write(f"{shared}/training.json", b'{"weights": "def"}')
    before, stays = content(storage), numbers(storage.location)
    told = asked(storage, "--delete", ONE, "--yes")
    gone = before.keys() - content(storage).keys()
    assert {name for name in gone if not name.startswith((alone, shared))} == {f"plans/{ONE}.json", "weights/abc"}
    assert storage.keys() == [shared] and plans.plan_ids(storage) == [OTHER]
    only = one.trials[1].columns["accuracy/pgd20"]  # of the training that both share, measured for the first alone
    assert {name for name in stays if name.startswith(shared)} - numbers(storage.location).keys() == {
        f"{shared}/{only}"
    }
    assert only not in storage.view(shared).records and storage.view(shared).has_checkpoint
    assert storage.damage(shared) == []
    for words in ("Before: 2 trainings", "After: 1 training", "freed", "1 measurement of trainings that stay"):
        assert words in told


def test_nothing_goes_unasked(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(storage)
    assert "expected --yes where nobody can be asked" in asked(storage, "--delete", ONE, code=2)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    monkeypatch.setattr("ablate.status.__main__.can_be_asked", lambda: True)
    assert "Nothing was deleted." in asked(storage, "--delete", ONE)
    assert content(storage) == before
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    assert "freed" in asked(storage, "--delete", ONE)


@pytest.mark.parametrize("held", ["plan", "search", "256"])
def test_what_a_live_launch_holds_is_left_alone(storage: Storage, held: str) -> None:
    key = keys(plans.load(storage, ONE)).get(held, f"{held}-{ONE}")
    with leases.Leases(storage.files, heartbeat_s=0.05) as launch:
        assert launch.acquire(key)
        before = content(storage, but="claims/")
        told = asked(storage, "--delete", ONE, "--yes", code=2)
        assert "expected no launch at work on it" in told and "nothing was deleted" in told
        assert content(storage, but="claims/") == before
    assert "freed" in asked(storage, "--delete", ONE, "--yes")


def test_a_plan_that_cannot_be_read_may_use_anything(storage: Storage) -> None:
    storage.files.write("plans/cccccccccc.json", b"{")
    before = content(storage)
    told = asked(storage, "--delete", ONE, "--yes", code=2)
    assert "expected plans that can all be read" in told and "cccccccccc" in told
    assert content(storage) == before


def test_what_was_cut_short_is_deleted_by_the_same_command(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plans.load(storage, ONE)
    manifest = next(path for path in content(storage) if path.startswith(keys(plan)["512"]) and "manifest" in path)
    storage.files.delete(manifest)  # as after the first step of deleting it
    asked(storage, "--delete", ONE, "--yes")
    assert not (Path(storage.location) / keys(plan)["512"]).exists()


def test_replications_of_what_goes_go_too(storage: Storage) -> None:
    plan = plans.load(storage, ONE)
    for row in ("512", "256"):
        _, inner = replications.open_one(storage, {keys(plan)[row]: []})
        finish(inner, plan, [keys(plan)[row]])
    going = what_goes(storage, plan)
    assert going.trainings == (keys(plan)["512"],)
    asked(storage, "--delete", ONE, "--yes")
    again = [replications.storage_of(storage, name).keys() for name in replications.names(storage)]
    assert again == [[], [keys(plan)["256"]]]


def test_its_runs_are_marked_as_deleted_and_no_others(
    storage: Storage, tmp_path: Path, at: Callable[[Path], Tracker]
) -> None:
    tracker = at(tmp_path)  # as `mlflow.db`: it is found by itself
    for name in (ONE, OTHER):
        tracker.sync(plans.load(storage, name), storage)
    one, other = (plans.load(storage, name) for name in (ONE, OTHER))
    shared = [keys(one)["256"]]
    others = tracker.runs_of(other, storage, shared)
    both = set(others) & set(tracker.runs_of(one, storage, shared))
    assert len(both) == 1  # the run of the training that both share
    told = asked(storage, "--delete", ONE, "--yes")
    assert "runs in sqlite" in told
    assert tracker.runs_of(one, storage, [keys(one)["512"]]) == []
    assert tracker.runs_of(other, storage, shared) == others
    assert [info.id for info in tracker.list_plans("batch_size")] == [OTHER]


@pytest.mark.parametrize("given", [["--yes"], ["--tracking-uri", "sqlite:///x.db"], ["--delete", ONE, "--log", "64"]])
def test_what_does_not_belong_together_is_refused(storage: Storage, given: list[str]) -> None:
    assert "expected" in asked(storage, *given, code=2)
