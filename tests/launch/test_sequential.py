"""Launches that go on until claims are decided: which seeds they train, what they leave, and how they go on."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import ablate
from ablate.core.errors import UserError
from ablate.core.text import now_ms
from ablate.execution.base import Outcome, Resources, Task
from ablate.launch.options import Options
from ablate.launch.request import Request
from ablate.launch.sequential import UntilDecided
from ablate.launch.session import launch
from ablate.planning.estimates import Estimate
from ablate.report.from_storage import results_of
from ablate.report.verdicts.verdicts import judge_all
from ablate.status.holdings import plan_statuses
from ablate.storage import plans
from ablate.storage.storage import Record, Storage
from tests.support.helpers import launch_here, options_of
from tests.support.tasks import have_tasks_run_by

SPACE = """\
title: Made until decided
base: {model.width: 0.25, model.depth: 8, training.batch_size: 64, training.epochs: 1, data.name: digits,
       data.image_size: 8, measurement.attacks: [natural]}
looks: [3, 5, 8]
rows:
  - {label: high, set: {training.learning_rate: 0.9}}
  - {label: middle, set: {training.learning_rate: 0.6}}
  - {label: low, set: {training.learning_rate: 0.5}}
  - {label: same, set: {training.learning_rate: 0.501}}
  - {label: nobody's, set: {training.learning_rate: 0.1}}
claims:
  - {says: clear, above: {row: high, rows: [low], metrics: [natural]}}
  - {says: less clear, above: {row: middle, rows: [low], metrics: [natural]}}
  - {says: nothing, above: {row: same, rows: [low], metrics: [natural]}}
"""
NOISE = [0.0, 4.0, -4.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, -1.5, 3.0, -3.0]
IMAGES = 1000
TOOK_S = 36.0
"""Of each training and of each measurement."""


def seconds_of(count: int) -> float:
    return 2 * count * TOOK_S / 3600


class Made:
    """Trainings that take no time, and what was trained in their order."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, fails: Callable[[str, int], str] = lambda row, seed: ""
    ) -> None:
        self.trained: list[tuple[str, int]] = []
        self.stop_at: int | None = None
        self.lost_s = 0.0  # of what is stopped or fails, before it does
        self.device = "cpu"
        self._fails = fails
        have_tasks_run_by(self._run, monkeypatch)

    def _run(self, task: Task, *_: Any) -> Outcome:
        rate, seed = task.spec.training.learning_rate, task.spec.seed
        row = {0.9: "high", 0.6: "middle", 0.5: "low", 0.501: "same", 0.1: "nobody's"}[rate]
        attempt = Storage(task.storage).attempt(task.key)
        reason = self._fails(row, seed)
        if self.lost_s and (reason or len(self.trained) == self.stop_at):
            told = {"began_ms": now_ms(), "alive_ms": now_ms() + int(1000 * self.lost_s), "on": {"threads": 1}}
            Storage(task.storage).files.write(attempt.alive, json.dumps(told).encode())
        if len(self.trained) == self.stop_at:
            self.stop_at = None
            raise KeyboardInterrupt
        self.trained.append((row, seed))
        if reason:
            attempt.save_failure(reason, "", now_ms())
            return Outcome(task.key, "failed", reason)
        history = [{"epoch": 1, "timestamp_ms": now_ms(), "metrics": {"seconds": TOOK_S}}]
        attempt.save_checkpoint(1, b"", history, finished=True)
        order = NOISE if row in ("low", "high") else NOISE[::-1]
        accuracy = 100.0 * rate + order[seed]
        for measurement in task.measurements:
            meta = {"device": self.device, "threads": 1, "seconds": TOOK_S, "timestamp_ms": now_ms()}
            right = {"correct": np.arange(IMAGES) < 10.0 * accuracy}
            attempt.save_record(Record(measurement.key, {"accuracy": accuracy}, right, meta))
        return Outcome(task.key, "finished")


def asked(folder: Path, text: str = SPACE, **changes: Any) -> Options:
    (folder / "made.yaml").write_text(text)
    return options_of(folder, "made", until_decided=True, **changes)


def said(text: str) -> str:
    return " ".join(text.split())


def share_in(folder: Path) -> Resources:
    """What a launch asks for."""
    return Request.read(asked(folder)).subject(Storage(asked(folder).storage)).resources(asked(folder))


def counts(trained: list[tuple[str, int]]) -> Mapping[str, int]:
    assert len(set(trained)) == len(trained), "nothing is trained twice"
    return {row: len([each for each in trained if each[0] == row]) for row in dict(trained)}


@pytest.mark.slow
def test_one_is_decided_at_once_one_goes_on_one_is_given_up_and_a_killed_launch_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(monkeypatch)
    made.stop_at = 7
    share = share_in(tmp_path)
    code, _ = launch_here(asked(tmp_path))
    assert code == 130 and len(made.trained) == 7
    code, text = launch_here(asked(tmp_path))
    assert code == 0, text
    assert share_in(tmp_path) == share, "however far it has come, a training has as many threads"
    assert counts(made.trained) == {"high": 3, "low": 5, "middle": 5, "same": 3}
    told = said(text)
    assert "2 of 3 claims decided, 0.32 core-hours spent" in told
    assert "“clear”: holds, decided at 3 seeds" in told and "“less clear”: holds, decided at 5 seeds" in told
    assert "“nothing”: given up at 3 seeds" in told and "the look at 5 seeds would take about 0.04 core-hours" in told
    assert "high: seeds 3, 4: not needed (decided at 3 seeds)" in told
    assert "same: seeds 3, 4: not needed (given up at 3 seeds)" in told
    assert "waits for seed 3 of same (not needed [given up at 3 seeds])" in told
    assert "not needed (no claim is about it)" in told and "missing" not in told
    [file] = plans.load_all(Storage(str(tmp_path / "storage")))
    assert file.seeds == [0, 1, 2, 3, 4] and len(file.trials) == 16 and file.until == 8
    before = len(made.trained)
    assert launch_here(asked(tmp_path))[0] == 0 and len(made.trained) == before
    # Whoever has trained all seeds of all rows comes to the same verdicts, of the claims that were decided.
    whole = asked(tmp_path)
    whole.until_decided, whole.seeds = False, list(range(5))
    assert launch_here(whole)[0] == 0
    results = results_of(plans.load(Storage(whole.storage)).of_space("made"), Storage(whole.storage))
    verdicts = judge_all(
        results.claims, results, [row.label for row in results.space.rows], design=results.space.design
    )
    assert [(verdict.verdict, verdict.look) for verdict in verdicts[:2]] == [("holds", 3), ("holds", 5)]


def test_more_than_one_comparison_gives_seeds_to_the_open_ones_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(monkeypatch)
    claim = "  - {says: best, best: {row: high, among: [high, middle, low], metrics: [natural]}}\n"
    text = SPACE[: SPACE.index("  - {says: clear")] + claim
    code, told = launch_here(asked(tmp_path, text))
    assert code == 0 and "holds, decided at" in said(told)
    found = counts(made.trained)
    assert found["low"] <= found["high"] and set(found) == {"high", "middle", "low"}


def test_a_budget_counts_what_the_plan_has_spent_over_all_launches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(monkeypatch)
    budget = seconds_of(12)
    code, text = launch_here(asked(tmp_path, budget_hours=budget))
    assert code == 0 and counts(made.trained) == {"high": 3, "low": 3, "middle": 3, "same": 3}
    assert "“less clear”: open at 3 seeds; the budget does not reach the next look" in said(text)
    assert "left out (the budget does not reach the look at 5 seeds)" not in said(text), "the plan has no such seeds"
    launch_here(asked(tmp_path, budget_hours=budget))
    assert len(made.trained) == 12
    code, text = launch_here(asked(tmp_path, budget_hours=seconds_of(16)))
    assert code == 0 and counts(made.trained)["middle"] == 5 and "2 of 3 claims decided" in said(text)
    assert len(plans.load_all(Storage(str(tmp_path / "storage")))) == 1, "the same plan whatever the budget"


def test_rows_of_a_comparison_that_is_decided_get_no_more_seeds_and_its_claim_is_decided_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(monkeypatch)
    claim = "  - {says: both, pairwise: {pairs: [[high, same], [middle, low]], metrics: [natural]}}\n"
    code, told = launch_here(asked(tmp_path, SPACE[: SPACE.index("  - {says: clear")] + claim))
    assert code == 0 and "“both”: holds, decided at 5 seeds" in said(told), told
    assert counts(made.trained) == {"high": 3, "same": 3, "middle": 5, "low": 5}


@pytest.mark.parametrize(("pays_for", "trained"), [(8.5, 6), (9.5, 9)])
def test_a_look_that_does_not_fit_the_budget_is_not_begun_and_shared_rows_cost_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pays_for: float, trained: int
) -> None:
    made = Made(monkeypatch)
    launch_here(asked(tmp_path, budget_hours=seconds_of(pays_for)))
    assert len(made.trained) == trained


def test_the_plan_is_named_by_its_registration_and_the_largest_number_of_seeds(tmp_path: Path) -> None:
    def name(text: str = SPACE, **changes: Any) -> str:
        given = asked(tmp_path, text, **changes)
        return Request.read(given).subject(Storage(given.storage)).plan.id

    assert name() == name(budget_hours=9.0) == name(max_seeds=8)
    turned = SPACE.replace("above: {row: high", "below: {row: high")
    assert len({name(), name(max_seeds=5), name(turned), name(SPACE.replace("[3, 5, 8]", "[3, 8]"))}) == 4


def test_a_budget_counts_what_was_lost_with_trainings_that_failed_or_were_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = {("high", 0)}
    made = Made(monkeypatch, lambda row, seed: "loss became nan" if (row, seed) in fails else "")
    made.stop_at, made.lost_s = 1, 3600 * seconds_of(2)

    def trained(budget: float) -> int:
        launch_here(asked(tmp_path, budget_hours=budget, retry_failed=True))
        return len(set(made.trained) - fails)

    assert trained(seconds_of(16)) == 0, "one failed, one was killed"
    fails.clear()
    assert trained(seconds_of(16)) <= 12, "what would have done for all of it does no more"
    assert trained(seconds_of(21)) == 16, "what is left to do costs as much as before"


@pytest.mark.parametrize(("budget", "first"), [(None, {"high", "middle", "low"}), (9.0, {"high", "low"})])
def test_with_a_budget_trainings_come_in_the_order_of_what_decides_most_for_them(
    tmp_path: Path, budget: float | None, first: set[str]
) -> None:
    wide = "claims:\n  - {says: wide, above: {row: high, rows: [middle, low], metrics: [natural]}}"
    given = asked(tmp_path, SPACE.replace("claims:", wide), budget_hours=budget)
    subject = Request.read(given).subject(Storage(given.storage))
    taken = [subject.take() for _ in range(6)]
    assert {training.rows[0].removeprefix("made/") for training in taken if training is not None} == first


def test_a_seed_that_fails_keeps_the_look_from_being_taken_until_a_rule_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = {("high", 1)}
    made = Made(monkeypatch, lambda row, seed: "loss became nan" if (row, seed) in fails else "")
    code, text = launch_here(asked(tmp_path))
    assert code == 1 and "“clear”: not enough evidence: seed 1 of high diverged" in said(text)
    assert "1 of 3 claims decided" in said(text)
    fails.clear()
    code, text = launch_here(asked(tmp_path, retry_failed=True))
    assert code == 0 and "2 of 3 claims decided" in said(text)
    assert made.trained.count(("high", 1)) == 2


def test_a_record_that_is_damaged_is_measured_again_when_its_seed_has_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(monkeypatch)
    fixed = asked(tmp_path)
    fixed.until_decided, fixed.seeds, fixed.rows = False, list(range(5)), ["middle"]
    assert launch_here(fixed)[0] == 0
    storage = Storage(fixed.storage)
    [trial] = [each for each in plans.load(storage).trials if each.seed == 4]
    [path] = Path(fixed.storage, trial.training).rglob(f"*{trial.columns['accuracy/natural']}*")
    path.write_bytes(path.read_bytes()[:-40])
    made.trained.clear()
    code, text = launch_here(asked(tmp_path))
    assert code == 0 and "“less clear”: holds, decided at 5 seeds" in said(text), text
    assert counts(made.trained)["middle"] == 1 and ("middle", 4) in made.trained


def test_trials_that_are_not_needed_are_told_apart_in_results_and_a_dry_run_tells_the_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Made(monkeypatch)
    out = io.StringIO()
    console = Console(file=io.StringIO(), width=150)
    dry = asked(tmp_path, dry_run=True, as_json=True, max_seeds=8)
    assert launch(Request.read(dry), console, out) == 0
    cost = json.loads(out.getvalue())["until_decided"]
    assert 0 < cost["expected_hours"] <= cost["largest_hours"] and cost["spent_hours"] == 0.0
    told = said(launch_here(asked(tmp_path, dry_run=True, max_seeds=8))[1])
    assert "Until decided: about" in told and "decided, 0" in told and "e+" not in told
    assert not (tmp_path / "storage").exists()
    plan = ablate.load_space(tmp_path / "made.yaml").plan(
        storage=tmp_path / "storage", until_decided=True, max_seeds=5, budget_hours=9
    )
    assert plan.run(local=True, tracking=False, cpus_per_trial=1, quiet=True) == 0
    frame = plan.results()
    assert set(frame["state"]) == {"finished"} and len(frame) == 16
    [file] = plans.load_all(Storage(str(tmp_path / "storage")))
    results = results_of(file.of_space("made"), Storage(str(tmp_path / "storage")))
    assert results.problems["high", 4] == "not needed (decided at 3 seeds)"
    told = plan_statuses([file], Storage(str(tmp_path / "storage")))[0]
    assert told.not_needed["made/high"] == "not needed (decided at 3 seeds)" and told.states == {"finished": 16}
    assert results.problems["same", 3] == "not needed (given up at 3 seeds)"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget_hours": 1e-9}, "--budget-hours: expected at least what one training takes, about .*got 1e-09"),
        ({"max_seeds": 2}, "--max-seeds: expected at least 3, the first look of made, got 2"),
        ({"seeds": [0, 1]}, "--seeds: expected none with --until-decided"),
        ({"rows": ["high"]}, "--row: expected none with --until-decided"),
        ({"preset": "smoke"}, "--until-decided: expected a preset that decides claims, got smoke"),
        ({"until_decided": False, "max_seeds": 3}, "--max-seeds: expected --until-decided beside it"),
        ({"until_decided": False, "budget_hours": 3.0}, "--budget-hours: expected --until-decided beside it"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    given = asked(tmp_path)
    for name, value in changes.items():
        setattr(given, name, value)
    with pytest.raises(UserError, match=words) as caught:
        launch_here(given)
    assert "\n" not in str(caught.value) and not (tmp_path / "storage").exists()


def test_a_space_without_claims_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--until-decided: expected a space with claims, got none in made"):
        launch_here(asked(tmp_path, SPACE[: SPACE.index("claims:")]))


@pytest.mark.parametrize("device", ["cpu", "NVIDIA H200"])
def test_what_is_left_is_told_in_hours_of_this_machine_wherever_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    made = Made(monkeypatch)
    made.device, made.stop_at = device, 4
    assert launch_here(asked(tmp_path))[0] == 130
    subject = Request.read(asked(tmp_path)).subject(Storage(asked(tmp_path).storage))
    assert isinstance(subject, UntilDecided)
    machine = Estimate(3600.0, 0, 2, "cpu", "as stated")  # two core-hours for all of it
    subject.costs.__dict__["machine"] = machine
    storage = Storage(asked(tmp_path).storage)
    subject.decide(storage, asked(tmp_path))
    told, outlook = subject.expected(storage), subject.outlook(subject.foreseen(storage, subject.expected(storage)))
    assert outlook["unit"] == ("core-hours" if device == "cpu" else "GPU-hours")
    if device == "cpu":
        assert told.device_hours == pytest.approx(outlook["largest_hours"])
    else:  # a share of all the work is that share of this machine's hours
        whole = subject.costs.here(1.0)
        assert whole != pytest.approx(1.0)
        assert told.device_hours == pytest.approx(outlook["largest_hours"] * whole)
        assert 0.0 < told.device_hours <= machine.device_hours
