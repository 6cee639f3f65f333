from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ablate.report.results import Outcome, Results, published_results
from ablate.report.verdicts.decisions import holm
from ablate.report.verdicts.evidence import estimate
from ablate.report.verdicts.verdicts import FAILS, HOLDS, UNDECIDED, Verdict, judge, judge_all
from tests.support.verdict_tables import (
    ABOVE,
    IMAGES,
    claim,
    rates,
    scalars,
    scalars_as_accuracy,
    simulated,
)

# Pairing


def test_sharing_the_training_narrows_the_interval_and_equal_seeds_alone_do_not() -> None:
    rng = np.random.default_rng(1)
    paired = simulated(rng, {"a": 0.2, "b": 0.0}, noise=0.5, shared=True)
    apart = Results(
        {
            (row, seed): Outcome(f"{row} {seed}", o.values, o.correct, o.test_key, o.images)
            for (row, seed), o in paired.outcomes.items()
        }
    )
    together, separate = judge(ABOVE, paired).comparisons[0], judge(ABOVE, apart).comparisons[0]
    assert together.effect == pytest.approx(separate.effect)
    assert together.high - together.low < 0.5 * (separate.high - separate.low)
    assert "paired by shared training" in together.test
    assert "paired by shared training" not in separate.test
    # Which training of one row meets which of the other makes no difference where nothing is shared.
    turned = Results({(row, (s + 1) % 3 if row == "b" else s): o for (row, s), o in apart.outcomes.items()})
    assert judge(ABOVE, turned).comparisons[0].low == pytest.approx(separate.low)


def test_shared_trainings_are_matched_by_training_not_by_seed_and_only_where_both_have_it() -> None:
    rng = np.random.default_rng(2)
    paired = simulated(rng, {"a": 0.2, "b": 0.0}, noise=0.5, shared=True)
    turned = Results({(row, (s + 1) % 3 if row == "b" else s): o for (row, s), o in paired.outcomes.items()})
    assert judge(ABOVE, turned).comparisons[0].low == pytest.approx(judge(ABOVE, paired).comparisons[0].low)
    short = Results({key: o for key, o in paired.outcomes.items() if key != ("b", 2)})
    assert judge(ABOVE, short).comparisons[0].n == {"a": 2, "b": 2}


def test_pairing_images_narrows_the_interval() -> None:
    rng = np.random.default_rng(3)
    results = simulated(rng, {"a": 0.2, "b": 0.0, "c": 0.1}, noise=0.01, seeds=4)
    other = Results(
        {
            (row, s): Outcome(o.training_key, o.values, o.correct, f"test of {row}", o.images)
            for (row, s), o in results.outcomes.items()
        }
    )
    bare = Results({key: Outcome(o.training_key, o.values, {}, "", IMAGES) for key, o in results.outcomes.items()})
    widths = [c.high - c.low for c in (judge(ABOVE, r).comparisons[0] for r in (results, other, bare))]
    assert widths[0] < widths[1] <= widths[2] * 1.05
    assert "paired by image" in judge(ABOVE, results).test
    assert "binomial" in judge(ABOVE, bare).test


def test_rows_that_share_their_trainings_lend_their_noise_once() -> None:
    rng = np.random.default_rng(4)
    one = simulated(rng, {"a": 0.0}, shared=True).outcomes
    copies = {(f"{row} at {d}", seed): o for d in (32, 28, 24) for (row, seed), o in one.items()}
    near = estimate({"a at 32": {"pgd20": 1.0}}, Results(copies))
    assert near.noise[0].df == 2


def test_noise_is_pooled_over_the_rows_of_the_table() -> None:
    results = scalars({"a": [1.0, 1.2, 1.1], "b": [2.0, 2.1, 2.3], "c": [5.0, 5.4], "d": [9.0]})
    found = estimate({"a": {"energy/ratio": 1.0}, "b": {"energy/ratio": -1.0}}, results)
    within = sum(np.var(v, ddof=1) * (len(v) - 1) for v in ([1.0, 1.2, 1.1], [2.0, 2.1, 2.3], [5.0, 5.4])) / 5
    (error, df), (own, _) = found.errors()
    assert df == pytest.approx(5)
    assert error == pytest.approx(math.sqrt(within * 2 / 3))
    assert own == pytest.approx(math.sqrt((0.01 + np.var([2.0, 2.1, 2.3], ddof=1)) / 3))
    assert found.images is None


@pytest.mark.parametrize(
    ("a", "b"),
    [([1.0, 1.2, 1.1, 1.5], [2.0, 1.4, 1.6, 2.3]), ([1.0, 1.1], [2.0, 1.4, 1.6, 2.3]), ([1.0, 3.1], [2.0, 1.9, 2.1])],
)
def test_two_rows_without_images_agree_with_students_and_welchs_t_tests(a: list[float], b: list[float]) -> None:
    made = claim(above={"row": "b", "rows": ["a"], "metrics": ["energy/ratio"]})
    expected = max(stats.ttest_ind(a, b).pvalue, stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert judge(made, scalars({"a": a, "b": b})).comparisons[0].p == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_quiet_rows_lend_a_noisy_one_no_certainty(seeds: int) -> None:
    rng = np.random.default_rng(8)
    made = claim(above={"row": "a", "rows": ["b"], "metrics": ["energy/ratio"]})

    def table() -> Results:
        return scalars({row: list(rng.normal(0.0, 1.0 if row == "a" else 0.2, seeds)) for row in "abcdefg"})

    decided = sum(judge(made, table()).verdict != UNDECIDED for _ in range(400))
    # Pooled noise alone decides three of ten; Welch's test itself is some points off with so few.
    assert decided / 400 <= 0.11


def test_without_any_spread_nothing_is_known_of_the_noise() -> None:
    made = claim(value={"row": "a", "at_least": 0.0, "metrics": ["energy/ratio"]})
    verdict = judge(made, scalars({"a": [0.3, 0.3]}))
    assert verdict.verdict == UNDECIDED and "without any spread between trainings" in (verdict.reason or "")
    assert judge(made, scalars({"a": [0.30, 0.31, 0.30]})).verdict == HOLDS
    none_right = np.zeros(100, np.bool_)
    outcomes = {("a", s): Outcome(f"a {s}", {"pgd20": 0.0}, {"pgd20": none_right}, "test", 100) for s in range(2)}
    few = claim(value={"row": "a", "at_most": 0.5, "metrics": ["pgd20"]})
    assert judge(few, Results(outcomes)).verdict == UNDECIDED


# Few seeds


def test_one_seed_never_decides() -> None:
    rng = np.random.default_rng(5)
    for made in (
        ABOVE,
        claim(difference={"row": "a", "minus": "b", "within": 50, "metrics": ["pgd20"]}),
        claim(value={"row": "a", "at_least": 1, "metrics": ["pgd20"]}),
    ):
        for shared in (False, True):
            verdict = judge(made, simulated(rng, {"a": 3.0, "b": -3.0}, seeds=1, shared=shared))
            assert verdict.verdict == UNDECIDED
            assert "one seed never decides by itself" in (verdict.reason or "")
            assert "at least 2 seeds" in (verdict.reason or "")
            assert math.isnan(verdict.comparisons[0].low)


def test_one_seed_of_a_row_does_not_decide_even_where_others_have_more_but_says_what_would() -> None:
    rng = np.random.default_rng(6)
    full = simulated(rng, {"a": 0.9, "b": 0.0, "c": 0.0}, seeds=4)
    verdict = judge(ABOVE, Results({key: o for key, o in full.outcomes.items() if key[0] != "a" or key[1] == 0}))
    assert verdict.verdict == UNDECIDED
    assert verdict.n_to_decide is not None and 2 <= verdict.n_to_decide <= 6


def test_two_seeds_mostly_leave_it_open_and_say_so() -> None:
    made = ABOVE
    found = rates(made, {"a": 0.15, "b": 0.0}, times=60, seeds=2, noise=0.15)
    assert found[UNDECIDED] >= 0.7
    verdict = judge(made, scalars_as_accuracy({"a": [50.0, 51.0], "b": [49.0, 50.5]}))
    assert "two seeds seldom decide" in (verdict.reason or "")


# Holm


def test_holm_is_the_textbooks() -> None:
    p_values = {0: 0.01, 1: 0.04, 2: 0.03, 3: 0.005}
    levels, adjusted = holm(p_values, 0.05)
    assert adjusted == pytest.approx({3: 0.02, 0: 0.03, 2: 0.06, 1: 0.06})
    assert levels[3] == pytest.approx(0.05 / 4)
    assert all((p_values[i] <= levels[i]) == (adjusted[i] <= 0.05) for i in p_values)


def test_more_comparisons_widen_the_intervals_and_are_named() -> None:
    rng = np.random.default_rng(8)
    results = simulated(rng, {"a": 0.1, "b": 0.0, "c": 0.05, "d": 0.1})
    alone = judge(ABOVE, results).comparisons[0]
    among = judge(claim(best={"row": "a", "metrics": ["pgd20"]}), results)
    first = among.comparisons[0]
    assert first.words == alone.words
    assert first.confidence > alone.confidence
    assert first.high - first.low > alone.high - alone.low
    assert "Holm over 3 comparisons" in among.test and "Holm" not in alone.test


@pytest.mark.parametrize("kind", ["above", "difference"])
def test_interval_and_verdict_say_the_same(kind: str) -> None:
    made = {
        "above": claim(above={"row": "a", "rows": ["b", "c", "d"], "metrics": ["pgd20"]}),
        "difference": claim(difference={"row": "a", "minus": "b", "within": 6, "metrics": ["pgd20"]}),
    }[kind]
    low, high = {"above": (0.0, math.inf), "difference": (-6.0, 6.0)}[kind]
    rng = np.random.default_rng(9)
    seen = set()
    for _ in range(60):
        levels = dict(zip("abcd", rng.normal(0, 0.25, 4), strict=True))
        for found in judge(made, simulated(rng, levels, noise=0.03)).comparisons:
            inside = low < found.low and found.high < high
            outside = found.high < low or found.low > high
            assert found.verdict == (HOLDS if inside else FAILS if outside else UNDECIDED)
            seen.add(found.verdict)
    assert seen == {HOLDS, FAILS, UNDECIDED}


# Gains, trends, scalars


def test_gain_compares_gains_of_two_columns_within_each_training() -> None:
    # Natural and PGD-20 of a training move together: the noise of the gain is smaller than either's.
    luck = {"base": [-3.0, 0.0, 3.0], "large": [3.0, -3.1, 0.1]}
    outcomes = {
        (row, s): Outcome(f"{row} {s}", {"natural": top + x + 0.1 * s, "pgd20": bottom + x})
        for (row, top, bottom) in (("base", 70.0, 40.0), ("large", 80.0, 41.0))
        for s, x in enumerate(luck[row])
    }
    more = claim(gain={"rows": ["large"], "over": "base", "metrics": ["natural"], "than": "pgd20"})
    less = claim(gain={"rows": ["large"], "over": "base", "metrics": ["pgd20"], "than": "natural"})
    assert judge(more, Results(outcomes)).verdict == HOLDS
    assert judge(less, Results(outcomes)).verdict == FAILS
    assert judge(more, Results(outcomes)).comparisons[0].effect == pytest.approx(9.0)


def test_trend_is_over_the_epochs_of_each_training() -> None:
    rng = np.random.default_rng(10)

    def curves(slope: float, row: str) -> dict[tuple[str, int], Outcome]:
        return {
            (row, s): Outcome(f"{row} {s}", {}, curves={"energy/ratio": slope * np.arange(30) + rng.normal(0, 1, 30)})
            for s in range(4)
        }

    results = Results({**curves(0.2, "up"), **curves(-0.2, "down"), **curves(0.0, "flat")})
    for row, direction, expected in (
        ("up", "increases", HOLDS),
        ("down", "increases", FAILS),
        ("down", "decreases", HOLDS),
    ):
        made = claim(trend={"row": row, "direction": direction, "metrics": ["energy/ratio"]})
        assert judge(made, results).verdict == expected
        assert -1 <= judge(made, results).comparisons[0].effect <= 1
    assert judge(claim(trend={"row": "flat", "metrics": ["energy/ratio"]}), results).verdict != HOLDS


def test_scalars_have_no_test_set_error() -> None:
    made = claim(value={"row": "a", "at_least": 0.5, "metrics": ["energy/share"]})
    verdict = judge(made, scalars({"a": [0.62, 0.64, 0.63]}, "energy/share"))
    assert verdict.verdict == HOLDS
    assert "images" not in verdict.test
    assert "0.63" in verdict.sentence() and "+" not in verdict.sentence()


# What is missing, and degenerate tables


def test_missing_rows_and_metrics_decide_nothing_and_are_named() -> None:
    rng = np.random.default_rng(11)
    full = simulated(rng, {"a": 1.0, "b": 0.0, "c": -1.0})
    gone = Results(
        {key: o for key, o in full.outcomes.items() if key[0] != "b"}, {("b", 0): "failed: loss became nan in epoch 3"}
    )
    made = claim(above={"row": "a", "rows": ["b", "c"], "metrics": ["pgd20"]})
    verdict = judge(made, gone)
    assert verdict.verdict == UNDECIDED
    assert "loss became nan in epoch 3" in (verdict.reason or "")
    assert [c.verdict for c in verdict.comparisons] == [UNDECIDED, HOLDS]
    assert "energy/ratio" in (
        judge(claim(value={"row": "a", "at_least": 0, "metrics": ["energy/ratio"]}), full).reason or ""
    )
    nan = Results({**full.outcomes, ("b", 0): Outcome("b 0", {"pgd20": math.nan})})
    assert judge(ABOVE, nan).comparisons[0].n == {"a": 3, "b": 2}


def test_a_row_that_is_worse_fails_although_another_is_missing() -> None:
    rng = np.random.default_rng(12)
    made = claim(best={"row": "c", "metrics": ["pgd20"]})
    assert judge(made, simulated(rng, {"a": 1.5, "c": -1.5}), rows=["a", "b", "c"]).verdict == FAILS


def test_the_very_same_predictions_are_equivalent_and_neither_is_above() -> None:
    right = np.arange(100) < 50
    outcomes = {
        (row, s): Outcome(f"t{s}", {"pgd20": 50.0}, {"pgd20": right}, "test") for row in ("a", "b") for s in range(3)
    }
    assert judge(ABOVE, Results(outcomes)).verdict == UNDECIDED
    within = claim(difference={"row": "a", "minus": "b", "within": 1, "metrics": ["pgd20"]})
    assert judge(within, Results(outcomes)).verdict == HOLDS


# The published table


def published(**rows: float) -> Results:
    return published_results({row: {"pgd20": value} for row, value in rows.items()})


def test_published_numbers_are_judged_with_the_noise_of_the_three_baselines() -> None:
    verdict: Verdict = judge(ABOVE, published(a=40.45, b=32.68))
    assert verdict.verdict == HOLDS
    assert "published baselines" in verdict.test and "10000 test images, binomial" in verdict.test
    small = judge(ABOVE, published(a=43.49, b=43.12))
    assert small.verdict == UNDECIDED
    assert small.n_to_decide is None or small.n_to_decide > 10
    [(error, df)] = estimate({"a": {"pgd20": 1.0}, "b": {"pgd20": -1.0}}, published(a=43.49, b=43.12)).errors()
    seed = float(np.var([43.12, 42.89, 42.13], ddof=1)) * 2
    binomial = sum(p * (100 - p) / 10_000 for p in (43.49, 43.12))
    assert error == pytest.approx(math.sqrt(seed + binomial))
    assert df == pytest.approx((seed + binomial) ** 2 / (seed**2 / 2 + binomial**2 / 9999))


def test_published_numbers_alone_without_any_noise_decide_nothing() -> None:
    alone = published_results({"a": {"pgd20": 90.0}, "b": {"pgd20": 10.0}}, noise=())
    assert judge(ABOVE, alone).verdict == UNDECIDED


def test_judge_all_keeps_the_order() -> None:
    results = published(a=40.45, b=32.68)
    other = claim(below={"row": "a", "rows": ["b"], "metrics": ["pgd20"]})
    assert [v.verdict for v in judge_all([ABOVE, other], results)] == [HOLDS, FAILS]
