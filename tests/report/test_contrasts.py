"""Every kind of statement is judged as its words say, on rows that leave no doubt."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ablate.report.results import Outcome, Results
from ablate.report.verdicts.evidence import estimate
from ablate.report.verdicts.verdicts import FAILS, HOLDS, judge
from tests.support.verdict_tables import claim

RATIO, OTHER = "energy/ratio", "energy/hfi"
MEANS = {"a": (10.0, 1.0), "b": (5.0, 3.0), "c": (2.0, 2.5), "d": (1.0, 7.0)}
"""Row -> means of two metrics."""

CURVE = "validation/robust"
CLEAR = Results(
    {
        (row, seed): Outcome(
            f"{row} {seed}",
            {RATIO: first + 0.001 * seed, OTHER: second - 0.002 * seed},
            curves={CURVE: [float(value) for value in (range(60) if row < "c" else range(60, 0, -1))]},
        )
        for row, (first, second) in MEANS.items()
        for seed in range(3)
    }
)

STATEMENTS: list[tuple[str, dict[str, Any], str]] = [
    ("above", {"row": "a", "rows": ["b", "c"]}, HOLDS),
    ("above", {"row": "b", "rows": ["c", "a"]}, FAILS),
    ("below", {"row": "d", "rows": ["b", "c"]}, HOLDS),
    ("below", {"row": "a", "rows": ["b"]}, FAILS),
    ("pairwise", {"pairs": [["a", "b"], ["c", "d"]]}, HOLDS),
    ("pairwise", {"pairs": [["a", "b"], ["d", "c"]]}, FAILS),
    ("best", {"row": "a"}, HOLDS),
    ("best", {"row": "b"}, FAILS),
    ("best", {"row": "b", "among": ["b", "c", "d"]}, HOLDS),
    ("ordering", {"rows": ["d", "c", "b"]}, HOLDS),
    ("ordering", {"rows": ["d", "c", "b"], "direction": "decreases"}, FAILS),
    ("ordering", {"rows": ["a", "b", "d"], "direction": "decreases"}, HOLDS),
    ("difference", {"row": "a", "minus": "b", "at_least": 4.5}, HOLDS),
    ("difference", {"row": "a", "minus": "b", "at_least": 5.5}, FAILS),
    ("difference", {"row": "b", "minus": "a", "at_most": -4.5}, HOLDS),
    ("difference", {"row": "a", "minus": "b", "at_most": 4.5}, FAILS),
    ("difference", {"row": "b", "minus": "a", "within": 5.5}, HOLDS),
    ("difference", {"row": "b", "minus": "a", "within": 4.5}, FAILS),
    ("gain", {"rows": ["a", "b"], "over": "d", "than": OTHER}, HOLDS),
    ("gain", {"rows": ["d"], "over": "c", "than": OTHER}, FAILS),
    ("gain", {"rows": ["a"], "over": "b", "than": OTHER}, HOLDS),  # 5 against -2
    # (10 - 5) - (2 - 1)
    ("interaction", {"both": "a", "one": "c", "other": "b", "neither": "d"}, HOLDS),
    ("interaction", {"both": "a", "one": "c", "other": "b", "neither": "d", "at_least": 4.5}, FAILS),
    ("interaction", {"both": "a", "one": "c", "other": "b", "neither": "d", "at_least": 3.5}, HOLDS),
    ("interaction", {"both": "a", "one": "b", "other": "c", "neither": "d", "within": 4.5}, HOLDS),
    ("interaction", {"both": "b", "one": "a", "other": "c", "neither": "d"}, FAILS),
    ("value", {"row": "a", "at_least": 9.5}, HOLDS),
    ("value", {"row": "a", "at_most": 9.5}, FAILS),
    ("value", {"row": "a", "reference": 10.5, "within": 1.0}, HOLDS),
    ("value", {"row": "a", "reference": 12.0, "within": 1.0}, FAILS),
    ("value", {"row": "d", "reference": 12.0, "within": 1.5}, FAILS),
    ("trend", {"row": "a", "metrics": [CURVE]}, HOLDS),
    ("trend", {"row": "a", "metrics": [CURVE], "direction": "decreases"}, FAILS),
    ("trend", {"row": "d", "metrics": [CURVE], "direction": "decreases"}, HOLDS),
]


@pytest.mark.parametrize(("kind", "statement", "verdict"), STATEMENTS, ids=str)
def test_a_statement_is_judged_as_its_words_say(kind: str, statement: dict[str, Any], verdict: str) -> None:
    made = claim(**{kind: {"metrics": [RATIO], **statement}})
    assert judge(made, CLEAR, rows=list(MEANS)).verdict == verdict


def test_where_no_image_was_kept_the_errors_of_a_rows_columns_add_up() -> None:
    """Of two columns on the same images nobody knows how much cancels: each row's part is at its largest."""
    means, images = {"a": (60.0, 40.0), "b": (30.0, 80.0)}, 500
    table = {
        row: [Outcome(f"{row} {seed}", {"pgd20": of[0], "natural": of[1]}, images=images) for seed in range(3)]
        for row, of in means.items()
    }
    weights = {"a": {"pgd20": 1.0, "natural": -1.0}, "b": {"pgd20": -1.0, "natural": 1.0}}
    bound = sum(sum(math.sqrt(mean * (100 - mean)) for mean in of) ** 2 / images for of in means.values())
    found = estimate(weights, table)
    assert float(found.image_variance) == pytest.approx(bound) and found.images == images
    assert not found.paired_images and np.isclose(float(found.effect), 20 + 50)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("bare", ["", "b", "ab", "cd", "abcd"])
@pytest.mark.parametrize("rows", ["ab", "abcd"])
def test_rows_of_the_same_trainings_are_the_same_only_where_all_are_right_on_the_same_images(
    rows: str, bare: str, same: bool
) -> None:
    """Equal counts of other images, or of images that a row did not keep, are luck of which more is possible."""
    right = np.arange(100) < 50

    def outcome(row: str, seed: int) -> Outcome:
        kept = {} if row in bare else {"pgd20": right if same or row != "b" else ~right}
        return Outcome(f"t{seed}", {"pgd20": 50.0}, kept, "test" if kept else "", 100)

    weights = {row: {"pgd20": sign} for row, sign in zip(rows, (1.0, -1.0, -1.0, 1.0), strict=False)}
    found = estimate(weights, {row: [outcome(row, seed) for seed in range(3)] for row in rows})
    expected = same and not set(bare) & set(rows)
    assert float(found.effect) == 0.0 and bool(found.same) == expected
    within = claim(difference={"row": "a", "minus": "b", "within": 1, "metrics": ["pgd20"]})
    table = Results({(row, seed): outcome(row, seed) for row in "ab" for seed in range(3)})
    assert (judge(within, table).verdict == HOLDS) == (same and not set(bare) & set("ab"))
