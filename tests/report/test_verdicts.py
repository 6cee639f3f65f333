from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from ablate.report.results import Outcome, Results, published_results
from ablate.report.verdicts.contrasts import Contrast
from ablate.report.verdicts.decisions import ALPHA, Standing, half_width, welch_level
from ablate.report.verdicts.evidence import Estimate, Noise, estimate
from ablate.report.verdicts.verdicts import FAILS, HOLDS, UNDECIDED, Verdict, judge, judge_all
from tests.support.verdict_tables import (
    ABOVE,
    IMAGES,
    claim,
    fixed,
    rates,
    scalars,
    scalars_as_accuracy,
    simulated,
    slack,
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


def test_a_comparison_rests_on_its_own_rows_and_no_other_rows_seeds_change_it() -> None:
    rows = {"a": [1.0, 1.2, 1.1], "b": [1.4, 1.5, 1.7]}
    made = claim(above={"row": "b", "rows": ["a"], "metrics": ["energy/ratio"]})
    alone = judge(made, scalars(rows))
    among = judge(made, scalars({**rows, "c": list(np.linspace(-50.0, 50.0, 21)), "d": [9.0]}))
    assert alone.verdict == HOLDS
    assert among == alone


@pytest.mark.parametrize(("a", "b"), [([1.0, 1.2, 1.1, 1.5], [2.0, 1.4, 1.6, 2.3]), ([1.0, 3.1, 2.0], [2.0, 1.9, 2.1])])
def test_two_rows_without_images_are_welchs_t_test_at_a_level_that_few_seeds_keep(
    a: list[float], b: list[float]
) -> None:
    made = claim(above={"row": "b", "rows": ["a"], "metrics": ["energy/ratio"]})
    welch = float(stats.ttest_ind(a, b, equal_var=False).pvalue)
    found = judge(made, scalars({"a": a, "b": b}), design=fixed(len(a))).comparisons[0]
    assert found.p >= welch
    assert welch_level(found.p, len(a) - 1) == pytest.approx(welch, rel=1e-3)


@pytest.mark.parametrize("df", [1, 2, 4, 7])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_the_level_of_welchs_test_is_kept_at_every_ratio_of_noises(df: int, level: float) -> None:
    rng = np.random.default_rng(3)
    nominal, rates = welch_level(level, df), []
    for ratio in (1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0, 30.0):
        one, other = rng.chisquare(df, 40_000) / df, ratio**2 * rng.chisquare(df, 40_000) / df
        free = df * (one + other) ** 2 / (one**2 + other**2)
        # Given the sample variances, the rate is a tail of the normal distribution.
        needed = stats.t.isf(nominal / 2, free)
        rates.append(np.mean(2 * stats.norm.sf(needed * np.sqrt((one + other) / (1 + ratio**2)))))
    assert max(rates) <= 1.04 * level
    assert max(rates) >= 0.9 * level, "no more of the level is given away than the worst ratio needs"


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_quiet_rows_lend_a_noisy_one_no_certainty(seeds: int) -> None:
    rng = np.random.default_rng(8)
    made = claim(above={"row": "a", "rows": ["b"], "metrics": ["energy/ratio"]})

    def table() -> Results:
        return scalars({row: list(rng.normal(0.0, 1.0 if row == "a" else 0.2, seeds)) for row in "abcdefg"})

    decided = sum(judge(made, table(), design=fixed(seeds)).verdict != UNDECIDED for _ in range(400))
    assert decided / 400 <= slack(400)


def test_a_scalar_that_is_the_same_in_every_seed_asks_whether_the_seed_acts() -> None:
    made = claim(value={"row": "a", "at_least": 0.0, "metrics": ["energy/ratio"]})
    verdict = judge(made, scalars({"a": [0.3, 0.3, 0.3]}))
    assert verdict.verdict == UNDECIDED and "does the seed act?" in (verdict.reason or "")
    assert judge(made, scalars({"a": [0.30, 0.31, 0.30]})).verdict == HOLDS
    either = claim(above={"row": "b", "rows": ["a"], "metrics": ["energy/ratio"]})
    verdict = judge(either, scalars({"a": [0.3, 0.3, 0.3], "b": [9.0, 9.1, 9.2]}))
    assert verdict.verdict == UNDECIDED and "of a is the same in every seed" in (verdict.reason or "")


def test_what_one_image_is_accuracies_do_not_tell_apart() -> None:
    none_right = np.zeros(100, np.bool_)
    outcomes = {("a", s): Outcome(f"a {s}", {"pgd20": 0.0}, {"pgd20": none_right}, "test", 100) for s in range(3)}
    few = claim(value={"row": "a", "at_most": 0.5, "metrics": ["pgd20"]})
    assert judge(few, Results(outcomes)).verdict == UNDECIDED
    more = {k: dataclasses.replace(o, correct={"pgd20": np.zeros(9000, np.bool_)}) for k, o in outcomes.items()}
    assert judge(few, Results(more)).verdict == HOLDS


def test_three_trends_of_exactly_one_decide_where_the_epochs_are_many() -> None:
    made = claim(trend={"row": "a", "metrics": ["energy/ratio"]})

    def rising(epochs: int) -> Results:
        curve = [float(epoch) for epoch in range(epochs)]
        return Results({("a", s): Outcome(f"a {s}", {}, curves={"energy/ratio": curve}) for s in range(3)})

    assert judge(made, rising(30)).verdict == HOLDS
    assert judge(made, rising(3)).verdict == UNDECIDED, "of three epochs one in six orders rises by chance"


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
            assert "the first look is at 3 seeds" in verdict.looks
            assert math.isnan(verdict.comparisons[0].low)


def test_one_seed_of_a_row_does_not_decide_even_where_others_have_more_but_says_what_would() -> None:
    rng = np.random.default_rng(6)
    full = simulated(rng, {"a": 0.9, "b": 0.0, "c": 0.0}, seeds=4)
    verdict = judge(ABOVE, Results({key: o for key, o in full.outcomes.items() if key[0] != "a" or key[1] == 0}))
    assert verdict.verdict == UNDECIDED
    assert verdict.n_to_decide is not None and 2 <= verdict.n_to_decide <= 6


def test_two_seeds_mostly_leave_it_open_and_are_no_look_unless_the_space_says_so() -> None:
    found = rates(ABOVE, {"a": 0.15, "b": 0.0}, times=60, seeds=2, noise=0.15)
    assert found[UNDECIDED] >= 0.7
    verdict = judge(ABOVE, scalars_as_accuracy({"a": [90.0, 91.0], "b": [9.0, 9.5]}, images=1000))
    assert verdict.verdict == UNDECIDED and verdict.look is None and verdict.next_look == 3
    assert "the first look is at 3 seeds" in verdict.sentence()


# Holm


def test_holm_is_the_textbooks() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        p_values = rng.uniform(0, 0.06, 4)
        effects = stats.norm.isf(p_values / 2)
        found = [Estimate(np.asarray(effect), (Noise(np.asarray(1.0), 1, 1e9),)) for effect in effects]
        standing = Standing.new(4)
        standing.take(0, [Contrast("", {}, low=0.0)] * 4, found, 0.05)
        order = np.argsort(p_values)
        passed = p_values[order] <= 0.05 / np.arange(4, 0, -1)
        rejected = order[: 4 if passed.all() else int(np.argmin(passed))]
        assert set(np.flatnonzero(standing.sides)) == set(rejected)


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
def test_interval_p_value_and_verdict_say_the_same(kind: str) -> None:
    made = {
        "above": claim(above={"row": "a", "rows": ["b", "c", "d"], "metrics": ["pgd20"]}),
        "difference": claim(difference={"row": "a", "minus": "b", "within": 6, "metrics": ["pgd20"]}),
    }[kind]
    low, high = {"above": (0.0, math.inf), "difference": (-6.0, 6.0)}[kind]
    rng = np.random.default_rng(9)
    seen = set()
    for seeds in (3, 5) * 30:  # one look, and two
        levels = dict(zip("abcd", rng.normal(0, 0.25, 4), strict=True))
        for found in judge(made, simulated(rng, levels, noise=0.03, seeds=seeds)).comparisons:
            inside = low < found.low and found.high < high
            outside = found.high < low or found.low > high
            assert found.verdict == (HOLDS if inside else FAILS if outside else UNDECIDED)
            assert (found.p <= ALPHA) == (found.verdict != UNDECIDED)
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


def test_an_interaction_is_a_difference_of_differences_and_the_same_with_a_and_b_exchanged() -> None:
    rng = np.random.default_rng(6)
    means = {"neither": 50.0, "a": 52.0, "b": 53.0, "ab": 65.0}
    results = scalars_as_accuracy({row: list(mean + rng.normal(0, 0.5, 3)) for row, mean in means.items()}, 10_000)
    rows = {"both": "ab", "one": "a", "other": "b", "neither": "neither", "metrics": ["pgd20"]}
    more = judge(claim(interaction=rows), results)
    turned = judge(claim(interaction={**rows, "one": "b", "other": "a"}), results)
    mean = {row: float(np.mean(results.values(row, "pgd20"))) for row in means}
    assert more.comparisons[0].effect == pytest.approx(mean["ab"] - mean["b"] - (mean["a"] - mean["neither"]))
    assert more.verdict == turned.verdict == HOLDS
    assert turned.comparisons[0].effect == pytest.approx(more.comparisons[0].effect)
    assert more.comparisons[0].words == "(ab − b) − (a − neither), PGD-20"
    assert "seed noise of its own rows, two by two" in more.test
    for bound, verdict in (({"at_most": 0}, FAILS), ({"at_least": 2}, HOLDS), ({"within": 2}, FAILS)):
        assert judge(claim(interaction={**rows, **bound}), results).verdict == verdict


def test_four_noises_have_the_bounds_of_their_pairs_put_together() -> None:
    parts = tuple(Noise(np.asarray(variance), 3, 2.0) for variance in (1.0, 4.0, 9.0, 0.25))
    whole = float(half_width(Estimate(np.asarray(0.0), parts), 0.01))
    pairs = [float(half_width(Estimate(np.asarray(0.0), parts[i : i + 2]), 0.01)) for i in (0, 2)]
    assert whole == pytest.approx(math.hypot(*pairs))


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
    assert "seed 0 of b diverged (loss became nan in epoch 3)" in (verdict.reason or "")
    # A look is taken on all rows of the claim, or every order of arrival would be a verdict of its own.
    assert [c.verdict for c in verdict.comparisons] == [UNDECIDED, UNDECIDED]
    assert "no R = LFI/HFI for 'a'" in (
        judge(claim(value={"row": "a", "at_least": 0, "metrics": ["energy/ratio"]}), full).reason or ""
    )
    nan = Results({**full.outcomes, ("b", 0): Outcome("b 0", {"pgd20": math.nan})})
    assert judge(ABOVE, nan).comparisons[0].n == {"a": 3, "b": 2}


@pytest.mark.parametrize(
    "metrics, words",
    [
        (["pgd20", "natural"], "no PGD-20, Natural for 'b' (seed 0: not trained)"),
        (["adaptive/fgsm", "cka/shallow_deep"], "no FGSM adaptive, CKA shallow-deep for 'b' (seed 0: not trained)"),
        (
            ["natural", "gn", "fgsm", "pgd20", "bim20", "cw20"],
            "no Natural, GN, FGSM, PGD-20, BIM-20 and 1 more for 'b'",
        ),
    ],
)
def test_all_that_a_row_lacks_is_said_once_by_the_names_people_read(metrics: list[str], words: str) -> None:
    asked = claim(above={"row": "a", "rows": ["b"], "metrics": metrics})
    alone = Results({("a", 0): Outcome("a 0", dict.fromkeys(metrics, 50.0))}, {("b", 0): "not trained"})
    reason = judge(asked, alone).reason or ""
    assert reason.startswith(words) and reason.count("not trained") == 1


def test_one_row_that_is_worse_is_enough_to_fail_but_all_rows_are_looked_at() -> None:
    rng = np.random.default_rng(12)
    made = claim(best={"row": "c", "metrics": ["pgd20"]})
    assert judge(made, simulated(rng, {"a": 1.5, "b": -3.0, "c": -1.5}), rows=["a", "b", "c"]).verdict == FAILS
    verdict = judge(made, simulated(rng, {"a": 1.5, "c": -1.5}), rows=["a", "b", "c"])
    assert verdict.verdict == UNDECIDED and verdict.next_look == 3
    assert "no PGD-20 for 'b'" in (verdict.comparisons[1].reason or "")


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
    assert "published baselines" in verdict.test and "10,000 test images, binomial" in verdict.test
    small = judge(ABOVE, published(a=43.49, b=43.12))
    assert small.verdict == UNDECIDED
    assert small.n_to_decide is None or small.n_to_decide > 10
    table = published(a=43.49, b=43.12)
    found = estimate({"a": {"pgd20": 1.0}, "b": {"pgd20": -1.0}}, {r: table.of(r) for r in "ab"}, table.noise)
    seed = float(np.var([43.12, 42.89, 42.13], ddof=1)) * 2
    binomial = sum(p * (100 - p) / 10_000 for p in (43.49, 43.12))
    assert float(found.variance()) == pytest.approx(seed + binomial)
    expected = math.sqrt(stats.t.isf(0.025, 2) ** 2 * seed + stats.t.isf(0.025, 9999) ** 2 * binomial)
    assert float(half_width(found, 0.05)) == pytest.approx(expected)


def test_published_numbers_alone_without_any_noise_decide_nothing() -> None:
    alone = published_results({"a": {"pgd20": 90.0}, "b": {"pgd20": 10.0}}, noise=())
    assert judge(ABOVE, alone).verdict == UNDECIDED
    # Nor does a column that the baselines, whose noise it would have, were not measured by.
    table = published_results({"a": {"square": 90.0}, "b": {"square": 10.0}})
    verdict = judge(claim(above={"row": "a", "rows": ["b"], "metrics": ["square"]}), table)
    assert verdict.verdict == UNDECIDED and "the noise between trainings is not known" in verdict.sentence()


def test_judge_all_keeps_the_order() -> None:
    results = published(a=40.45, b=32.68)
    other = claim(below={"row": "a", "rows": ["b"], "metrics": ["pgd20"]})
    assert [v.verdict for v in judge_all([ABOVE, other], results)] == [HOLDS, FAILS]
