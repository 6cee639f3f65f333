"""What a storage holds, as its command says it: states, reasons, sizes, what differs; nothing is changed by asking."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ablate.status.__main__ import app
from ablate.status.holdings import differences, plan_statuses
from ablate.storage import leases, plans
from ablate.storage.storage import Storage
from tests.support.stored import content
from tests.support.tracking_world import T0, measure, plan_of, train

ONE, OTHER = "a" * 10, "b" * 10


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A plan of three rows with two seeds: finished, failed and half-trained, and one that nobody has begun."""
    storage = Storage(str(tmp_path / "storage"))
    plan = plan_of(("512", "256", "64", "32"), (0, 1), plan_id=ONE)
    for trial in plan.trials:
        if trial.row == "512":
            measure(train(storage, trial.training), trial)
        elif trial.row == "256":
            train(storage, trial.training, 1).save_failure("loss became nan\nin epoch 2", "", T0 + 5)
        elif trial.row == "64":
            train(storage, trial.training, 1)
    plans.save(plan, storage)
    return storage


def asked(storage: Storage, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["--storage", storage.location, *arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_every_state_is_told_with_its_reason_and_nothing_is_written(storage: Storage) -> None:
    before = content(storage)
    status = plan_statuses([plans.load(storage)], storage)[0]
    assert [trial.state for trial in status.trials[::2]] == ["finished", "failed", "interrupted", "waiting"]
    assert status.states == {"finished": 2, "failed": 2, "interrupted": 2, "waiting": 2}
    told = asked(storage)
    assert told.startswith(ONE) and "2 interrupted, 2 waiting, 2 failed, 2 finished" in told
    assert "256, seed 0 failed: loss became nan" in told
    assert any(line.startswith("  its log: ") and line.endswith("log.txt") for line in told.splitlines())
    assert all(line == line.rstrip() for line in told.splitlines())
    assert content(storage) == before


def test_what_a_live_launch_holds_is_training_also_before_its_first_epoch(storage: Storage) -> None:
    plan = plans.load(storage)
    half, begun = (next(trial.training for trial in plan.trials if trial.row == row) for row in ("64", "32"))
    with leases.Leases(storage.files, "a-launch") as held:
        assert held.acquire(half) and held.acquire(begun)
        states = {trial.training: trial.state for trial in plan_statuses([plan], storage)[0].trials}
        assert states[half] == states[begun] == "training"
    states = {trial.training: trial.state for trial in plan_statuses([plan], storage)[0].trials}
    assert (states[half], states[begun]) == ("interrupted", "waiting")


def test_sizes_are_those_of_the_files(storage: Storage) -> None:
    status = plan_statuses([plans.load(storage)], storage)[0]
    for trial in status.trials:
        files = [path for path in (Path(storage.location) / trial.training).rglob("attempts/*/*") if path.is_file()]
        assert trial.checkpoint_bytes + trial.record_bytes == sum(path.stat().st_size for path in files)
    assert sum(status.bytes) == sum(trial.checkpoint_bytes + trial.record_bytes for trial in status.trials)


def test_what_trials_share_is_counted_once(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "storage"))
    plan = plan_of(("32", "16"), (0,), space="lowpass", shared=True)
    for trial in plan.trials:
        attempt = storage.attempt(trial.training)
        attempt.save_log("begun", last=True)
        break
    plans.save(plan, storage)
    status = plan_statuses([plan], storage)[0]
    assert sum(status.bytes) == status.trials[0].checkpoint_bytes + status.trials[0].record_bytes > 0


def test_the_log_of_a_row_is_printed(storage: Storage) -> None:
    key = next(trial.training for trial in plans.load(storage).trials if trial.row == "64")
    storage.attempt(key).save_log("epoch 1 began\x1b[31m", last=True)
    told = asked(storage, "--log", "64")
    assert "epoch 1 began" in told and "\x1b" not in told
    assert "epoch 1 began" in asked(storage, "--log", key[:8])
    assert "nothing began yet" in asked(storage, "--log", "32", code=2)
    assert "expected one of row '64', got 7" in asked(storage, "--log", "64", "--seed", "7", code=2)
    assert "did you mean '512'" in asked(storage, "--log", "51", code=2)


def test_why_two_trainings_differ(storage: Storage) -> None:
    plan = plans.load(storage)
    changed = [
        trial.model_copy(update={"spec": {**trial.spec, "training": {**trial.spec["training"], "batch_size": 7}}})
        if trial.row == "256"
        else trial
        for trial in plan.trials
    ]
    plans.save(plan.model_copy(update={"trials": changed}), storage)
    assert "training.batch_size: 512 and 7" in asked(storage, "--why", "512", "256")
    found = json.loads(asked(storage, "--why", "512", "256", "--json"))
    assert found["settings"] == {"training.batch_size": [512, 7]} and not found["same_training"]
    assert "both share" in asked(storage, "--why", "512", "512")


def test_a_row_is_found_in_the_last_plan_that_has_it(storage: Storage) -> None:
    plans.save(plan_of(("0.9", "512"), (0,), plan_id=OTHER, space="momentum", launched_ms=T0 + 9), storage)
    first = plans.load(storage, ONE)
    key = next(trial.training for trial in first.trials if trial.row == "64")
    storage.attempt(key).save_log("epoch 1 began", last=True)
    assert plans.load(storage).id == OTHER and "epoch 1 began" in asked(storage, "--log", "64")
    assert f"{key[:8]} and" in asked(storage, "--why", "64", "512")
    assert OTHER in asked(storage, "--why", "0.9", "64", code=2)  # no plan has both
    assert "64" in asked(storage, "--plan", OTHER, "--log", "64", code=2)


def test_settings_that_one_has_alone_are_differences_too() -> None:
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {}, "c": 2}) == {"a.b": (1, None), "a": (None, {})}
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == {}


def test_two_plans_side_by_side(storage: Storage) -> None:
    other = plan_of(("512", "256"), (0, 1), plan_id=OTHER, salt="other", launched_ms=T0 + 1000)
    for trial in other.trials:
        measure(train(storage, trial.training), trial)
    plans.save(other, storage)
    found = json.loads(asked(storage, "--compare", ONE, OTHER, "--json"))
    [changes] = found["spaces"].values()
    assert {change["row"] for change in changes} == {"512"}  # of 256 the first plan has nothing
    for change in changes:
        assert change["difference"] == pytest.approx(change["other"] - change["one"]) and change["error"] >= 0
    told = asked(storage, "--compare", "a", "b")
    assert "512" in told and "±" in told
    assert "expected two plans" in asked(storage, "--compare", ONE, "a", code=2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--plan", "ffff"], "expected a plan launched into"),
        (["--log", "64", "--why", "64", "32"], "expected one of --log, --why, --compare and --delete"),
        (["--compare", ONE, "zz"], "got 'zz'"),
        (["--why", "64", "nothing"], "got 'nothing'"),
    ],
)
def test_mistakes_are_one_line(storage: Storage, arguments: list[str], told: str) -> None:
    assert told in " ".join(asked(storage, *arguments, code=2).split())


def test_an_empty_storage_says_so(tmp_path: Path) -> None:
    assert "expected a plan launched into it, got none" in asked(Storage(str(tmp_path / "none")), code=2)
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "study.zip").touch()
    assert "bundles/study.zip" in asked(Storage(str(tmp_path / "bundles")), code=2)  # not the folder, but this
    assert not (tmp_path / "none").exists()
