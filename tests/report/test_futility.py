"""How probably a claim that is open is decided by the seeds to come: the same as drawing them and judging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from ablate.report.results import Outcome, Results
from ablate.report.verdicts.contrasts import contrasts
from ablate.report.verdicts.decisions import levels
from ablate.report.verdicts.futility import NextLook, chances, prospect
from ablate.report.verdicts.looks import walk
from ablate.report.verdicts.verdicts import UNDECIDED, judge
from ablate.spaces.looks import Design
from tests.support.verdict_tables import claim, simulated

METRIC = "energy/ratio"
ABOVE = claim(above={"row": "a", "rows": ["b"], "metrics": [METRIC]})


def table(rows: Mapping[str, Sequence[float]], shared: bool) -> Results:
    return Results(
        {
            (row, seed): Outcome(f"{'' if shared else row} {seed}", {METRIC: float(value)})
            for row, values in rows.items()
            for seed, value in enumerate(values)
        }
    )


@pytest.mark.parametrize("shared", [False, True])
def test_the_chance_of_a_look_is_how_often_seeds_like_those_there_are_decide(shared: bool) -> None:
    looks = (3, 5, 9)
    # Rows that share their trainings rise and fall together: their difference is what is quiet.
    rows = {"a": [3.0, 5.2, 7.7], "b": [1.0, 4.0, 6.9]} if shared else {"a": [2.0, 3.0, 4.2], "b": [0.0, 1.0, 2.1]}
    asked = contrasts(ABOVE, ["a", "b"])
    found = walk(asked, table(rows, shared), Design(looks=looks))
    last = found.taken[-1].table
    assert last is not None and not found.standing.claim and len(found.taken) == 1
    left = [NextLook(n, looks[n] - 3, levels(looks)[n]) for n in (1, 2)]
    told = chances(asked, last, found.standing, left)
    rng, draws, decided = np.random.default_rng(0), 600, np.zeros(2)
    for _ in range(draws):
        if shared:
            luck = np.cov(list(rows.values()), ddof=1)
            more = rng.multivariate_normal([np.mean(rows["a"]), np.mean(rows["b"])], luck, size=6).T
        else:
            more = [rng.normal(np.mean(rows[row]), np.std(rows[row], ddof=1), 6) for row in rows]
        whole = {row: [*values, *added] for (row, values), added in zip(rows.items(), more, strict=True)}
        verdict = judge(ABOVE, table(whole, shared), design=Design(looks=looks))
        if verdict.verdict != UNDECIDED:
            decided += np.array([verdict.look == 5, True])
    rate = decided / draws
    assert 0.1 < rate[0] < rate[1] - 0.1 < 0.9
    assert told == pytest.approx(rate, abs=4 * 0.5 / draws**0.5)


def test_a_look_counts_that_the_budget_reaches_and_its_chance_for_its_cost() -> None:
    found = prospect([0.2, 0.6, 0.9], [1.0, 2.0, 5.0], 2.0)
    assert (found.chance, found.value) == (0.6, pytest.approx(0.3)) and not found.hopeless
    assert prospect([0.05, 0.099], [1.0, 2.0], np.inf).hopeless and not prospect([0.1], [1.0], np.inf).hopeless
    assert prospect([0.9], [3.0], 2.0).chance == 0.0


def test_more_seeds_do_not_lower_the_test_set_error_of_futures() -> None:
    """Trainings that agree on few images: seeds to come show the same images again."""
    looks = (3, 5, 8, 13, 21)

    def chance(images: int) -> float:
        results = simulated(np.random.default_rng(1), {"a": 0.08, "b": 0.0}, noise=0.01, images=images)
        made = claim(above={"row": "a", "rows": ["b"], "metrics": ["pgd20"]})
        asked = contrasts(made, ["a", "b"])
        found = walk(asked, results, Design(looks=looks))
        if found.standing.claim:
            return 1.0
        last = found.taken[-1].table
        assert last is not None
        left = [NextLook(n, looks[n] - 3, levels(looks)[n]) for n in range(1, 5)]
        return float(chances(asked, last, found.standing, left)[-1])

    assert chance(200) < 0.1 < 0.9 < chance(8000)
