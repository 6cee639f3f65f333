"""How often verdicts are wrong or open, and whether as many seeds as they ask for decide."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ablate.report.verdicts import decisions, verdicts
from ablate.report.verdicts.decisions import levels
from ablate.report.verdicts.verdicts import FAILS, HOLDS, UNDECIDED, judge
from ablate.spaces.looks import Design
from tests.support.verdict_tables import (
    ABOVE,
    ALPHA,
    claim,
    fixed,
    rates,
    scalars,
    scalars_as_accuracy,
    simulated,
    slack,
)

MANY = Design(looks=tuple(sorted({round(4 * 1.12**k) for k in range(50)})))

# The stated error rate


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_rows_are_decided_no_more_often_than_alpha(shared: bool, seeds: int) -> None:
    found = rates(ABOVE, {"a": 0.0, "b": 0.0, "c": 0.3}, shared=shared, seeds=seeds)
    assert found[HOLDS] + found[FAILS] <= slack(250)


def test_without_the_arrays_the_binomial_bound_keeps_the_rate() -> None:
    found = rates(ABOVE, {"a": 0.0, "b": 0.0, "c": 0.3}, correct=False)
    assert found[HOLDS] + found[FAILS] <= slack(250)


def test_many_comparisons_keep_the_rate() -> None:
    made = claim(best={"row": "a", "metrics": ["pgd20"]})
    found = rates(made, dict.fromkeys("abcdef", 0.0), times=150)
    assert found[HOLDS] + found[FAILS] <= slack(150)


def test_one_false_comparison_among_true_ones_seldom_holds() -> None:
    made = claim(above={"row": "a", "rows": ["b", "c"], "metrics": ["pgd20"]})
    assert rates(made, {"a": 0.0, "b": 0.0, "c": -1.5})[HOLDS] <= slack(250, ALPHA / 2)


def test_equivalence_is_seldom_found_at_its_margin() -> None:
    # Populations whose accuracies differ by 4 points: Phi(level / s) with s^2 = 1 + 0.3^2 + 0.5^2 + 0.02^2.
    level = math.sqrt(1.3404) * float(stats.norm.ppf(0.54))
    made = claim(difference={"row": "a", "minus": "b", "within": 4.0, "metrics": ["pgd20"]})
    found = rates(made, {"a": level, "b": 0.0, "c": 0.0}, noise=0.02, images=1500, times=120, seeds=4)
    assert found[HOLDS] <= slack(120)


# The right verdict where there is one


def test_true_claims_hold_and_false_ones_fail() -> None:
    levels = {"a": 0.8, "b": 0.0, "c": -0.8}
    for made in (
        claim(above={"row": "a", "rows": ["b", "c"], "metrics": ["pgd20"]}),
        claim(below={"row": "c", "rows": ["a", "b"], "metrics": ["pgd20"]}),
        claim(pairwise={"pairs": [["a", "b"], ["b", "c"]], "metrics": ["pgd20"]}),
        claim(best={"row": "a", "metrics": ["pgd20"]}),
        claim(ordering={"rows": ["c", "b", "a"], "direction": "increases", "metrics": ["pgd20"]}),
        claim(difference={"row": "a", "minus": "c", "at_least": 10, "metrics": ["pgd20"]}),
        claim(value={"row": "a", "at_least": 60, "metrics": ["pgd20"]}),
    ):
        assert rates(made, levels, times=20)[HOLDS] >= 0.9, made
    for made in (
        claim(above={"row": "c", "rows": ["a", "b"], "metrics": ["pgd20"]}),
        claim(best={"row": "b", "metrics": ["pgd20"]}),
        claim(best={"row": "c", "among": ["a"], "metrics": ["pgd20"]}),
        claim(ordering={"rows": ["c", "b", "a"], "direction": "decreases", "metrics": ["pgd20"]}),
        claim(difference={"row": "a", "minus": "c", "at_most": 10, "metrics": ["pgd20"]}),
        claim(difference={"row": "a", "minus": "c", "within": 10, "metrics": ["pgd20"]}),
        claim(value={"row": "c", "at_least": 60, "metrics": ["pgd20"]}),
        claim(value={"row": "c", "reference": 77.14, "within": 1, "metrics": ["pgd20"]}),
    ):
        assert rates(made, levels, times=20)[FAILS] >= 0.9, made


def test_equal_rows_are_equivalent_only_with_evidence_for_it() -> None:
    made = claim(difference={"row": "a", "minus": "b", "within": 8.0, "metrics": ["pgd20"]})
    precise = rates(made, {"a": 0.0, "b": 0.0, "c": 0.0}, noise=0.02, images=1500, times=30, seeds=4)
    noisy = rates(made, {"a": 0.0, "b": 0.0}, noise=0.4, times=30, seeds=2)
    assert precise[HOLDS] >= 0.8
    assert noisy[HOLDS] <= 0.1, "no significant difference is not equivalence"


# What would decide it


def test_the_n_that_is_asked_for_mostly_decides() -> None:
    effects = {"a": 0.3, "b": 0.0}
    rng = np.random.default_rng(7)
    asked = [judge(ABOVE, simulated(rng, effects, noise=0.15, images=2000), design=MANY).n_to_decide for _ in range(40)]
    usual = int(np.median([n for n in asked if n is not None]))
    assert usual > 3
    found = rates(ABOVE, effects, times=40, noise=0.15, images=2000, seeds=usual)
    assert found[HOLDS] >= 0.5


def test_a_smaller_effect_or_more_noise_asks_for_more() -> None:
    def needed(gap: float, spread: float) -> int:
        rows = {"a": [50 + gap + s * spread for s in (-1, 0, 1)], "b": [50 + s * spread for s in (-1, 0, 1)]}
        found = judge(ABOVE, scalars_as_accuracy(rows), design=MANY).n_to_decide
        assert found is not None
        return found

    assert 3 < needed(1.0, 1.0) < needed(0.5, 1.0) < needed(0.5, 2.0)


def test_where_the_test_set_is_too_small_more_seeds_are_not_asked_for() -> None:
    rows = {"a": [50.4, 50.5, 50.6], "b": [50.0, 50.1, 49.9]}
    verdict = judge(ABOVE, scalars_as_accuracy(rows, images=100))
    assert verdict.verdict == UNDECIDED
    assert verdict.n_to_decide is None
    assert "100 test images are too few" in (verdict.reason or "")
    assert judge(ABOVE, scalars_as_accuracy(rows)).verdict == HOLDS


def test_a_claim_that_seems_to_fail_needs_only_its_worst_comparison() -> None:
    rows = {"a": [50, 51, 52], "b": [49.8, 51, 52.1], "c": [52.0, 53.4, 53.9]}
    made = claim(above={"row": "a", "rows": ["b", "c"], "metrics": ["pgd20"]})
    verdict = judge(made, scalars_as_accuracy(rows))
    each = {c.words: c.n_to_decide for c in verdict.comparisons}
    assert verdict.verdict == UNDECIDED
    assert verdict.n_to_decide == each["a − c, PGD-20"]
    assert f"about {verdict.n_to_decide} seeds" in (verdict.reason or "")


def test_equivalence_asks_for_as_many_trainings_as_both_of_its_tests_need(monkeypatch: pytest.MonkeyPatch) -> None:
    made = claim(difference={"row": "a", "minus": "b", "within": 1.0, "metrics": ["energy/ratio"]})
    spread = 1.0
    rows = {"a": [spread, -spread, 0.0], "b": [spread, -spread, 0.0]}
    n = judge(made, scalars(rows), design=MANY).n_to_decide
    assert n is not None
    rng = np.random.default_rng(9)
    level = levels(MANY.looks)[MANY.looks.index(n)]
    for module in (decisions, verdicts):
        monkeypatch.setattr(module, "ALPHA", level)
    held = sum(
        judge(made, scalars({row: list(rng.normal(0.0, spread, n)) for row in "ab"}), design=fixed(n)).verdict == HOLDS
        for _ in range(300)
    )
    assert abs(held / 300 - 0.8) < 0.12


def test_what_would_decide_counts_every_comparison_from_the_first_seed_on() -> None:
    made = claim(above={"row": "a", "rows": ["b", "c", "d"], "metrics": ["energy/ratio"]})
    few = {row: [level, level + 1.0] for row, level in zip("bcd", (0.0, 0.1, 0.2), strict=True)}
    without = judge(made, scalars({"a": [1.0], **few}), design=MANY)
    single = claim(above={"row": "a", "rows": ["b"], "metrics": ["energy/ratio"]})
    alone = judge(single, scalars({"a": [1.0], **few}), design=MANY)
    assert without.comparisons[0].n_to_decide is not None and alone.comparisons[0].n_to_decide is not None
    assert without.comparisons[0].n_to_decide > alone.comparisons[0].n_to_decide
