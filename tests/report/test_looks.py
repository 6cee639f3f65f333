"""Verdicts at looks: what is looked at, when, and how often that errs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ablate.core.errors import SpecError
from ablate.report.results import Outcome, Results
from ablate.report.verdicts.decisions import ALPHA, levels
from ablate.report.verdicts.verdicts import FAILS, HOLDS, UNDECIDED, judge
from ablate.spaces.loading import load_space
from ablate.spaces.looks import Design
from benchmarks.verdicts import ACCURACY, Kind, decided, kinds, measure, outcomes
from tests.support.verdict_tables import ABOVE, claim, fixed, scalars, simulated

SCALAR = claim(above={"row": "a", "rows": ["b"], "metrics": ["energy/ratio"]})
CLEAR = {"a": [5.0, 5.1, 5.2], "b": [1.0, 1.1, 1.2]}


def without(results: Results, row: str, seed: int, problem: str | None) -> Results:
    kept = {key: o for key, o in results.outcomes.items() if key != (row, seed)}
    return Results(kept, {(row, seed): problem} if problem is not None else {})


# What a look is taken on


def test_a_decision_stands_whatever_later_seeds_say_and_they_are_shown_beside_it() -> None:
    early = judge(SCALAR, scalars(CLEAR))
    later = judge(SCALAR, scalars({"a": [*CLEAR["a"], -90.0, -95.0], "b": [*CLEAR["b"], 90.0, 99.0]}))
    assert early.verdict == later.verdict == HOLDS
    assert early.look == later.look == later.comparisons[0].look == 3
    assert later.comparisons[0].later is not None and later.comparisons[0].later[0] == 5
    assert dataclasses.replace(later.comparisons[0], later=None) == early.comparisons[0]
    assert "decided at 3 seeds" in later.sentence() and "with 5 seeds]" in later.sentence()


def test_numbers_between_looks_are_estimates_and_the_next_look_is_named() -> None:
    rows = {"a": [5.0, 4.0, 6.0], "b": [4.8, 4.1, 5.5]}
    at_three = judge(SCALAR, scalars(rows))
    at_four = judge(SCALAR, scalars({row: [*values, 5.0 if row == "a" else 1.0] for row, values in rows.items()}))
    assert at_four.verdict == UNDECIDED and (at_four.look, at_four.next_look) == (3, 5)
    assert at_four.comparisons[0].effect == at_three.comparisons[0].effect
    assert at_four.comparisons[0].later == pytest.approx((4, 5.0 - 3.85))
    assert "the next look is at 5 seeds" in at_four.sentence()


def test_seeds_count_in_the_order_of_the_space_and_others_do_not() -> None:
    turned = {(row, 10 - s): o for (row, s), o in scalars(CLEAR).outcomes.items()}
    assert judge(SCALAR, Results(turned)).verdict == UNDECIDED
    found = judge(SCALAR, Results(turned), design=Design(looks=(3,), seeds=(10, 9, 8)))
    assert found.verdict == HOLDS
    strays = {("a", s): Outcome(f"a {s}", {"energy/ratio": -50.0}) for s in range(3)}
    again = judge(SCALAR, Results({**turned, **strays}), design=Design(looks=(3,), seeds=(10, 9, 8)))
    assert (again.verdict, again.look) == (found.verdict, found.look)


def test_results_may_arrive_in_any_order_and_elsewhere() -> None:
    rng = np.random.default_rng(1)
    results = simulated(rng, {"a": 0.4, "b": 0.0}, seeds=5)
    turned = Results(dict(reversed(list(results.outcomes.items()))))
    assert judge(ABOVE, turned) == judge(ABOVE, results)


PROBLEMS = {
    "not trained": "not trained",
    "stopped early after epoch 2": "stopped early after epoch 2",
    "not needed (given up at 3 seeds)": "not needed [given up at 3 seeds]",
    "interrupted (signal 9) while measuring (pgd20)": "interrupted [signal 9] while measuring [pgd20]",
    "not finished, after (a (b))": "not finished, after [a [b]]",
}


@pytest.mark.parametrize("problem", [*PROBLEMS, None])
def test_a_seed_that_waits_keeps_the_look_from_being_taken(problem: str | None) -> None:
    results = without(scalars(CLEAR), "b", 1, problem)
    verdict = judge(SCALAR, results)
    assert verdict.verdict == UNDECIDED and verdict.look is None and verdict.next_look == 3
    told = f" and waits for seed 1 of b ({PROBLEMS[problem]})" if problem else ""
    assert f"the first look is at 3 seeds{told}" in verdict.sentence()


# Trainings that failed for good


def test_a_failed_seed_leaves_it_open_until_the_space_has_a_rule() -> None:
    results = without(scalars(CLEAR), "b", 1, "failed: the outputs became nan in epoch 3")
    results = Results({**results.outcomes, ("a", 3): results.outcomes["a", 0]}, results.problems)
    verdict = judge(SCALAR, results)
    assert verdict.verdict == UNDECIDED
    assert (verdict.reason or "").startswith("seed 1 of b diverged (the outputs became nan in epoch 3)")
    nested = without(scalars(CLEAR), "b", 1, "failed: CUDA error (719) at a step")
    assert "seed 1 of b failed (CUDA error [719] at a step)" in (judge(SCALAR, nested).reason or "")
    assert "failures: worst" in (verdict.reason or "")
    excluded = judge(SCALAR, results, design=Design(looks=(3,), failures="exclude"))
    assert excluded.verdict == HOLDS and excluded.comparisons[0].n == {"a": 2, "b": 2}
    assert "seed 1 of b diverged and is left out of all rows" in excluded.test
    worst = judge(SCALAR, results, design=Design(looks=(3,), failures="worst"))
    assert worst.verdict == UNDECIDED and "has no worst value" in (worst.reason or "")


def test_one_seed_that_a_rule_leaves_decides_nothing() -> None:
    clear = simulated(np.random.default_rng(2), {"a": 3.0, "b": -3.0}, seeds=2)
    verdict = judge(
        ABOVE, without(clear, "b", 1, "failed: loss became nan"), design=Design(looks=(2,), failures="exclude")
    )
    assert verdict.verdict == UNDECIDED and "one seed never decides by itself" in verdict.sentence()


def test_the_worst_counts_as_accuracy_zero() -> None:
    rng = np.random.default_rng(2)
    design = Design(looks=(3,), failures="worst")
    for metric_of_all in (True, False):
        full = simulated(rng, {"a": 0.0, "b": 0.0}, images=400, correct=metric_of_all)
        for row, sign in (("a", -1), ("b", 1)):
            failed = without(full, row, 0, "failed: out of memory")
            comparison = judge(ABOVE, failed, design=design).comparisons[0]
            zero = dataclasses.replace(full.outcomes[row, 0], values={"pgd20": 0.0}, correct={})
            as_zero = judge(ABOVE, Results({**full.outcomes, (row, 0): zero}), design=design).comparisons[0]
            assert comparison.effect == pytest.approx(as_zero.effect)
            assert np.sign(comparison.effect) == sign
            assert f"seed 0 of {row} failed and counts as accuracy 0" in judge(ABOVE, failed, design=design).test


def test_a_failure_after_the_deciding_look_changes_nothing() -> None:
    four = scalars({"a": [*CLEAR["a"], 5.0], "b": [*CLEAR["b"], 1.0]})
    failed = judge(SCALAR, without(four, "b", 3, "failed: out of memory"))
    assert (failed.verdict, failed.look) == (HOLDS, 3)


# Holm over all comparisons, the error spent over all looks


def test_the_levels_of_all_looks_come_to_alpha() -> None:
    assert levels((3, 5, 8, 13, 21)) == pytest.approx([0.03, 0.01, 0.005, 0.003, 0.002])
    for count in (1, 2, 7, 50):
        spent = levels(range(2, 2 + count))
        assert sum(spent) == pytest.approx(ALPHA) and spent == sorted(spent, reverse=True)


def test_what_one_comparison_decides_leaves_more_of_the_level_for_the_others_at_this_look_and_later_ones() -> None:
    made = claim(above={"row": "a", "rows": ["b", "c"], "metrics": ["energy/ratio"]})
    rows = {"a": [5.0, 5.1, 5.2, 5.1, 5.0], "b": [0.0, 0.1, 0.2, 0.1, 0.0], "c": [4.9, 5.3, 4.9, 5.2, 5.0]}
    verdict = judge(made, scalars(rows))
    first, second = verdict.comparisons
    assert (first.verdict, first.look) == (HOLDS, 3)
    assert second.verdict == UNDECIDED and second.n == {"a": 5, "c": 5}
    assert first.confidence == pytest.approx(1 - 0.03 / 2)
    assert second.confidence == pytest.approx(1 - 0.01)
    # What is decided is not tested again, so that nobody has to train more of it.
    fewer = judge(made, scalars({**rows, "b": rows["b"][:3]}))
    assert fewer.look == verdict.look == 5 and fewer.comparisons[1] == second


def test_comparisons_that_cannot_be_tested_yet_count_too() -> None:
    rows = {"a": [5.0, 5.1, 5.2], "b": [4.7, 4.6, 4.8], "c": [1.0, 1.1, 1.2]}
    many = claim(above={"row": "a", "rows": ["b", "c"], "metrics": ["energy/ratio", "energy/later"]})
    verdict = judge(many, scalars(rows))
    assert verdict.verdict == UNDECIDED and verdict.look is None
    assert all(comparison.verdict == UNDECIDED for comparison in verdict.comparisons)
    assert "waits for energy/later of a, seed 0" in verdict.looks


def test_fails_at_the_first_look_where_any_comparison_does() -> None:
    made = claim(above={"row": "a", "rows": ["b", "c"], "metrics": ["energy/ratio"]})
    verdict = judge(made, scalars({"a": [1.0, 1.1, 1.2], "b": [1.0, 1.3, 0.9], "c": [5.0, 5.1, 5.2]}))
    assert (verdict.verdict, verdict.look, verdict.next_look) == (FAILS, 3, None)


QUICK = {
    "above, 2 rows": (1.0, 10.0),
    "above, 5 rows, three of them surely": (5.0,),
    "equivalence within 4 noises": (1.0,),
    "gain, 5 rows": (10.0,),
    "interaction, 4 rows": (10.0,),
    "value within": (1.0,),
    "trend": (1.0,),
    "above, 2 rows, shared trainings": (5.0,),
    "above, 5 rows, unequal seeds": (10.0,),
    "above, 2 rows, a fixed design of 3": (10.0,),
    "equivalence within 10 points, 200 images": (10.0,),
    "gain, 2 rows, 200 images": (10.0,),
    "pairwise, 2 rows, 200 images": (10.0,),
    "below, 5 rows, 200 images": (1.0,),
}


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind.name in QUICK], ids=lambda kind: kind.name)
def test_at_any_look_a_claim_at_its_edge_is_seldom_decided(kind: Kind) -> None:
    for ratio in QUICK[kind.name]:
        tables = 800 if kind.metric == ACCURACY else 6000
        rates = measure(kind, ratio, tables)
        assert rates.error <= ALPHA + 2.6 * (ALPHA * (1 - ALPHA) / tables) ** 0.5
        if ratio == 1.0 and len(kind.looks) == 5 and kind.metric != ACCURACY:
            assert rates.right[1] >= 0.9, "four noises are seen by five seeds"


@pytest.mark.parametrize(
    "name",
    [
        "ordering, 5 rows",
        "below, 5 rows",
        "above, 2 rows, 200 images",
        "gain, 2 rows",
        "gain, 2 rows, 200 images",
        "interaction, 4 rows",
    ],
)
def test_thousands_of_tables_at_once_are_judged_as_each_of_them_is(name: str) -> None:
    [kind] = [kind for kind in kinds() if kind.name == name]
    made = outcomes(np.random.default_rng(4), kind, 1.0, kind.effect, 12)
    standing = decided(kind, made)
    names = {1: HOLDS, -1: FAILS, 0: UNDECIDED}
    seen = set()
    for index in range(12):
        verdict = judge(kind.claim, Results({key: _one(o, index) for key, o in made.items()}))
        assert verdict.verdict == names[int(standing.claim[index])]
        seen.add(verdict.look)
        for number, comparison in enumerate(verdict.comparisons):
            at = int(standing.look[number, index])
            assert comparison.look == (kind.looks[at] if at >= 0 else None)
    assert len(seen) > 1


def _one(outcome: Outcome, index: int) -> Outcome:
    values: Mapping[str, float] = {name: float(np.asarray(v)[index]) for name, v in outcome.values.items()}
    correct = {name: array[index] for name, array in outcome.correct.items()}
    return dataclasses.replace(outcome, values=values, correct=correct)


# What a space says of it


def written(folder: Path, *more: str) -> Path:
    path = folder / "made.yaml"
    rows = ["title: made", "base: {data: {name: digits, image_size: 8}}", "rows:", "  - {label: a}"]
    path.write_text("\n".join([*rows, *more]) + "\n")
    return path


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["looks: [3, 5, 5]"], "expected looks that rise, each more seeds than the one before, got 5 after 5"),
        (["looks: [5, 3]"], "expected looks that rise"),
        (["looks: [1, 3]"], "looks.0: expected greater than or equal to 2, got 1"),
        (["looks: []"], "looks: expected at least 1 item"),
        (["looks: 5"], "looks: expected a list, got 5"),
        (["failures: forget"], "failures: expected 'worst' or 'exclude', got 'forget'"),
        (["looks: [3]", "seeds: [4, 4, 5]"], "seeds: expected each seed once, got 4 twice"),
        (["looks: [3]", "seeds: [-4, 4, 5]"], "seeds.0: expected greater than or equal to 0, got -4"),
        (["looks: [3, 5]", "seeds: [4, 7, 5]"], "expected seeds for every look, 5 of them for the last one, got 3"),
    ],
)
def test_looks_that_cannot_be_are_refused_by_line(tmp_path: Path, lines: list[str], told: str) -> None:
    path = written(tmp_path, *lines)
    with pytest.raises(SpecError) as refused:
        load_space(str(path))
    assert str(refused.value).startswith(f"{path}:{4 + len(lines)}: ") and told in str(refused.value)


def test_a_space_says_its_looks_and_the_usual_ones_are_three_to_twenty_one(tmp_path: Path) -> None:
    assert load_space("lowpass").space.design == Design(looks=(3, 5, 8, 13, 21))
    path = written(tmp_path, "looks: [4, 6]", "seeds: [9, 8, 7, 6, 5, 4]", "failures: worst")
    assert load_space(str(path)).space.design == Design(looks=(4, 6), seeds=(9, 8, 7, 6, 5, 4), failures="worst")


def test_a_search_has_no_looks(tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(
        "title: made\nlooks: [3]\nbase: {data: {name: digits, image_size: 8, validation: 0.2}}\n"
        "search: {parameters: {training.learning_rate: {uniform: [0.1, 0.2]}}, samples: 2, "
        "objective: {metric: validation/robust, mode: max}}\n"
    )
    with pytest.raises(SpecError, match=r":2: looks: expected no looks beside search"):
        load_space(str(path))


def test_a_fixed_design_is_one_look() -> None:
    verdict = judge(SCALAR, scalars({row: [*values, *values] for row, values in CLEAR.items()}), design=fixed(6))
    assert verdict.verdict == HOLDS and "a fixed design of 6 seeds" in verdict.test
    assert verdict.comparisons[0].confidence == pytest.approx(0.95)


def test_a_comparison_that_is_open_names_the_level_of_the_look_that_left_it_so() -> None:
    rows = {"a": [1.0, 1.2, 1.1, 0.9, 1.0], "b": [1.1, 1.0, 1.2, 1.0, 0.9]}
    for seeds, level in ((3, "0.03"), (5, "0.01")):
        found = judge(SCALAR, scalars({row: values[:seeds] for row, values in rows.items()}))
        assert found.verdict == UNDECIDED and f"at level {level} of looks" in found.test
