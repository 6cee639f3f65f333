"""Numbers of which a part is missing: seeds of a column, images of a column, measurements of a trained network."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.report.from_storage import results_of
from ablate.report.replications import replications_of
from ablate.report.results import Outcome, Results, columns_of
from ablate.report.tables import Row, build_table, table_input
from ablate.report.verdicts.contrasts import contrasts
from ablate.report.verdicts.evidence import estimate
from ablate.report.verdicts.looks import walk
from ablate.report.verdicts.verdicts import UNDECIDED, judge
from ablate.spaces.looks import Design
from ablate.storage import replications
from ablate.storage.plans import PlanFile
from ablate.storage.records import Record
from ablate.storage.storage import Storage
from tests.support.tracking_world import EPOCHS, IMAGES, correct_of, finish, history_of, measure, plan_of, train
from tests.support.verdict_tables import claim

TRANSFERRED = "accuracy/transfer_512"
SEEDS = (0, 1, 2)
ABOVE_256 = claim(above={"row": "512", "rows": ["256"], "metrics": ["pgd20"]})


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


def rows_of(plan: PlanFile, storage: Storage) -> dict[str, Row]:
    return {row.label: row for row in build_table(table_input(results_of(plan, storage))).rows}


def test_a_seed_without_a_column_that_others_have_is_named(storage: Storage) -> None:
    """Else its mean over two seeds would be taken for one over the three that the row has."""
    plan = plan_of(seeds=SEEDS, metrics=["accuracy/natural", TRANSFERRED])
    for trial in plan.trials:
        lacking = trial.row == "256" and trial.seed == 1
        columns = {name: key for name, key in trial.columns.items() if not (lacking and name == TRANSFERRED)}
        measure(train(storage, trial.training), trial.model_copy(update={"columns": columns}))
    rows = rows_of(plan, storage)
    assert rows["512"].notes == () and rows["256"].notes == ("seed 1: no PGD-20 of 512",)
    assert rows["256"].lines[-1].n == 3


@pytest.mark.parametrize("value", [math.inf, math.nan, None])
def test_a_seed_whose_curve_ends_in_no_number_is_named_where_its_last_value_is_shown(
    storage: Storage, value: float | None
) -> None:
    about = {"says": "words", "above": {"row": "512", "rows": ["256"], "metrics": ["energy/ratio"]}}
    plan = plan_of(seeds=SEEDS, claims=[about])
    broken = plan.trials[1]
    finish(storage, plan, [trial.training for trial in plan.trials if trial is not broken])
    history = history_of(broken.training, EPOCHS)
    if value is None:
        del history[-1]["metrics"]["energy/ratio"]
    else:
        history[-1]["metrics"]["energy/ratio"] = value
    attempt = storage.attempt(broken.training)
    attempt.save_checkpoint(EPOCHS, b"", history, finished=True)
    measure(attempt, broken)
    assert rows_of(plan, storage)["512"].notes == ("seed 1: no R = LFI/HFI",)


def measured(row: str, seed: int, sizes: dict[str, int]) -> Outcome:
    rng = np.random.default_rng([seed, len(row)])
    correct = {name: rng.random(size) < 0.5 for name, size in sizes.items()}
    values = {name: 100.0 * float(right.mean()) for name, right in correct.items()}
    return Outcome(f"{row} {seed}", values, correct, "test", max(sizes.values()))


@pytest.mark.parametrize("kept", [True, False], ids=["images kept", "of one column lost"])
def test_a_column_on_fewer_images_has_their_error_beside_one_on_all_of_them(kept: bool) -> None:
    """Of PGD-20 on 10,000 images and Square on 100 the test-set error is no less than that of Square alone."""
    table = {
        row: [measured(row, seed, {"pgd20": 10_000, "square": 100}) for seed in SEEDS] for row in ("one", "another")
    }
    if not kept:
        table = {
            row: [dataclasses.replace(o, correct={"square": o.correct["square"]}) for o in of_row]
            for row, of_row in table.items()
        }
    both = estimate({"one": {"pgd20": 1.0, "square": -1.0}, "another": {"pgd20": -1.0, "square": 1.0}}, table)
    alone = estimate({"one": {"square": 1.0}, "another": {"square": -1.0}}, table)
    assert both.images == alone.images == 100
    assert float(both.image_variance) >= float(alone.image_variance)


@pytest.mark.parametrize("asked", [None, 5, 10 * IMAGES])
def test_a_column_whose_images_were_not_kept_is_of_as_many_as_were_asked_for(
    storage: Storage, asked: int | None
) -> None:
    plan = plan_of(["512"], metrics=["accuracy/square"])
    [trial] = plan.trials
    spec = {**trial.spec, "measurement": {**trial.spec["measurement"], "images": asked}}
    plan = plan.model_copy(update={"trials": [trial.model_copy(update={"spec": spec})]})
    train(storage, trial.training).save_record(Record(trial.columns["accuracy/square"], {"accuracy": 40.0}))
    assert results_of(plan, storage).outcomes["512", 0].images == min(IMAGES, asked or IMAGES)


def test_a_training_again_may_differ_by_one_of_the_images_that_a_column_is_of(storage: Storage) -> None:
    plan = plan_of(["512"], SEEDS, metrics=["accuracy/square"])
    few = 4

    def saved(where: Storage, training: str, key: str, right: int) -> None:
        correct = np.arange(few) < right
        record = Record(key, {"accuracy": 100.0 * float(correct.mean())}, {"correct": correct})
        train(where, training).save_record(record)

    for trial in plan.trials:
        saved(storage, trial.training, trial.columns["accuracy/square"], 2)
    first = plan.trials[0]
    _, inner = replications.open_one(storage, {first.training: first.required})
    saved(inner, first.training, first.columns["accuracy/square"], 3)
    [again] = replications_of(storage, plan.trials)[0]
    assert (again.ending, again.outside) == ("inside", "")


# Networks that were trained, and not measured as a whole


def with_one_that_failed(storage: Storage, reason: str, *, trained: bool) -> Results:
    plan = plan_of(seeds=SEEDS)
    for trial in plan.trials:
        attempt = train(storage, trial.training, EPOCHS if trained or (trial.row, trial.seed) != ("256", 1) else 1)
        if (trial.row, trial.seed) == ("256", 1):
            attempt.save_failure(reason, "", 1)
        else:
            measure(attempt, trial)
    return results_of(plan, storage)


@pytest.mark.parametrize(
    ("reason", "trained", "worst"),
    [
        ("loss became nan in epoch 2", False, True),
        ("out of memory", False, True),
        ("pgd20: expected finite logits, got nan to nan", True, True),
        ("aa: out of memory", True, False),
        ("KeyError: 'own attack'", True, False),
    ],
)
def test_a_trained_network_that_could_not_be_measured_counts_as_no_accuracy(
    storage: Storage, reason: str, trained: bool, worst: bool
) -> None:
    results = with_one_that_failed(storage, reason, trained=trained)
    verdict = judge(ABOVE_256, results, design=Design(looks=(3,), failures="worst"))
    assert ("counts as accuracy 0" in verdict.test) == worst
    if not worst:
        assert verdict.verdict == UNDECIDED and "though its training did not" in (verdict.reason or "")


def test_the_worst_is_as_many_wrong_images_as_its_own_test_set_has(storage: Storage) -> None:
    plan = plan_of(seeds=SEEDS, metrics=["accuracy/pgd20"])
    elsewhere = plan.trials[0].data.model_copy(update={"test_digest": "another", "test_count": 7})
    trials = [trial.model_copy(update={"data": elsewhere}) if trial.row == "512" else trial for trial in plan.trials]
    plan = plan.model_copy(update={"trials": trials})
    for trial in plan.trials:
        failed = (trial.row, trial.seed) == ("512", 1)
        attempt = train(storage, trial.training, 1 if failed else EPOCHS)
        right = correct_of(trial.training)[: trial.data.test_count]
        if failed:
            attempt.save_failure("loss became nan in epoch 2", "", 1)
        else:
            key = trial.columns["accuracy/pgd20"]
            attempt.save_record(Record(key, {"accuracy": 100.0 * float(right.mean())}, {"correct": right}))
    asked = contrasts(ABOVE_256, ["512", "256"])
    course = walk(asked, results_of(plan, storage), Design(looks=(3,), failures="worst"))
    table = course.taken[-1].table
    assert table is not None
    assert {(o.test_key, len(o.correct["pgd20"])) for o in table["512"]} == {("another", 7)}
    assert table["512"][1].values == {"pgd20": 0.0} and not table["512"][1].correct["pgd20"].any()


# Whose number a name is


@pytest.mark.parametrize("order", [1, -1])
def test_a_scalar_of_another_network_stands_before_that_of_the_last_epoch(order: int) -> None:
    """`energy/ratio` of the last epoch is in every run; where a network has one of its own, it is that one."""
    names = ["energy/ratio", "best/energy/ratio", "best/spectrum/share", "accuracy/pgd20", "accuracy_best/pgd20"]
    assert columns_of(names[::order], "best") == {
        "energy/ratio": "best/energy/ratio",
        "spectrum/share": "best/spectrum/share",
        "pgd20": "accuracy_best/pgd20",
    }
    assert columns_of(names[::order]) == {"energy/ratio": "energy/ratio", "pgd20": "accuracy/pgd20"}
    assert columns_of(["energy/ratio", "accuracy_ema/pgd20"], "ema") == {
        "energy/ratio": "energy/ratio",
        "pgd20": "accuracy_ema/pgd20",
    }


@pytest.mark.parametrize(("network", "told"), [(None, False), ("last", False), ("best", True), ("ema", True)])
@pytest.mark.parametrize("metric", ["energy/ratio", "pgd20"])
def test_energies_of_a_row_of_another_network_are_said_to_be_of_the_last_epoch(
    storage: Storage, network: str | None, told: bool, metric: str
) -> None:
    about = {"says": "words", "above": {"row": "512", "rows": ["256"], "metrics": [metric]}}
    plan = plan_of(claims=[about])
    first = plan.trials[0]
    spec = {**first.spec, "measurement": {**first.spec["measurement"], "network": network}}
    plan = plan.model_copy(update={"trials": [first.model_copy(update={"spec": spec}), *plan.trials[1:]]})
    finish(storage, plan)
    caption = build_table(table_input(results_of(plan, storage))).caption
    assert ("energies and masks after the last epoch" in caption) == (told and metric == "energy/ratio")


@pytest.mark.parametrize("rows", [(), ("512",), ("512", "256")])
def test_a_caption_says_of_which_rows_attacks_searched_in_bfloat16(storage: Storage, rows: tuple[str, ...]) -> None:
    plan = plan_of()
    lower = {"measurement": {**plan.trials[0].spec["measurement"], "precision": "bfloat16"}}
    trials = [
        trial.model_copy(update={"spec": {**trial.spec, **(lower if trial.row in rows else {})}})
        for trial in plan.trials
    ]
    assert {trial.row for trial in plan.trials} == {"512", "256"}
    plan = plan.model_copy(update={"trials": trials})
    finish(storage, plan)
    caption = build_table(table_input(results_of(plan, storage))).caption
    said = {0: None, 1: "attacks of 512 searched in bfloat16", 2: "attacks searched in bfloat16"}[len(rows)]
    assert ("bfloat16" in caption) == bool(said) and (said or "") in caption


def test_the_outcomes_of_a_row_come_by_seed_in_whichever_order_they_were_read() -> None:
    outcomes = {(row, seed): Outcome(f"{row} {seed}", {"pgd20": seed}) for seed in (10, 2, 0) for row in ("a", "b")}
    assert Results(outcomes).values("a", "pgd20") == [0, 2, 10]


# Networks of which one measurement failed


def with_a_failed(label: str, storage: Storage, reason: str) -> Results:
    """Three seeds a row; that of row 256 and seed 1 has everything but one measurement."""
    plan = plan_of(seeds=SEEDS, analyses=["spectrum", "own"], metrics=["accuracy/natural", "accuracy/pgd20"])
    for trial in plan.trials:
        attempt = train(storage, trial.training)
        failed = (trial.row, trial.seed) == ("256", 1)
        parts = {name: {k: v for k, v in getattr(trial, name).items() if not (failed and k == label)}
                 for name in ("columns", "analyses")}  # fmt: skip
        measure(attempt, trial.model_copy(update=parts))
        if failed:
            attempt.save_failure(reason, "", 1)
    return results_of(plan, storage)


@pytest.mark.parametrize(
    ("label", "reason", "told"),
    [
        ("own", "own: expected two rows, got 1", "own failed: expected two rows, got 1"),
        ("own", "KeyError: 'a'", "own failed: KeyError: 'a'"),  # as earlier versions stored it
        ("accuracy/pgd20", "pgd20: expected finite logits", "PGD-20 failed: expected finite logits"),
    ],
)  # fmt: skip
def test_a_row_shows_its_numbers_beside_what_failed_of_it(storage: Storage, label: str, reason: str, told: str) -> None:
    results = with_a_failed(label, storage, reason)
    assert ("256", 1) in results.outcomes and not results.problems
    assert results.trials["256", 1].state == "failed"
    row = next(row for row in build_table(table_input(results)).rows if row.label == "256")
    assert row.notes == (f"seed 1: {told}",)
    ours = row.lines[-1]
    assert (ours.n, ours.state) == (3, "") and {"natural", "pgd20"} == ours.cells.keys()


@pytest.mark.parametrize("failures", [None, "worst", "exclude"])
@pytest.mark.parametrize("label", ["own", "accuracy/pgd20"])
def test_what_failed_of_a_row_is_missing_in_verdicts_about_it_alone(
    storage: Storage, label: str, failures: Any
) -> None:
    results = with_a_failed(label, storage, f"{label}: expected finite logits, got nan to nan")
    design = Design(looks=(3,), failures=failures)
    for metric, lacks in (("natural", None), ("pgd20", "accuracy/pgd20"), ("own/share", "own")):
        about = claim(above={"row": "512", "rows": ["256"], "metrics": [metric]})
        verdict = judge(about, results, design=design)
        words = " ".join([verdict.test, verdict.reason or ""])
        assert ("seed 1 of 256" in words) == (lacks == label), words


def test_a_network_of_which_nothing_was_measured_failed_as_a_whole(storage: Storage) -> None:
    results = with_one_that_failed(storage, "pgd20: expected finite logits, got nan to nan", trained=True)
    assert results.problems.keys() == {("256", 1)} and not results.gaps
