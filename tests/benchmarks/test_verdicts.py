"""The simulated tables of verdicts: of every kind of statement, at its edge, and all of them on the page about it."""

from __future__ import annotations

import re
from typing import get_args

import numpy as np
import pytest

from ablate.report.verdicts.contrasts import contrasts
from ablate.spaces.claims import Claim
from benchmarks.verdicts import ACCURACY, Kind, kinds, outcomes
from tests.support.documents import ROOT

LIMIT = 5.5
"""The upper 95 % limit of an error rate, in %."""

UNEQUAL = (1.0, 5.0, 10.0)


def rows_of_the_page() -> list[tuple[str, str, float, float, str]]:
    """(statement, noise, error, upper limit, decided by each look) of the table, in its order."""
    text = (ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8")
    [table] = re.findall(r"^\| statement \| noise \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [(name, noise, float(error), float(upper), power) for name, noise, error, upper, power in cells]


def test_the_page_has_every_kind_of_table_in_order_and_none_errs_beyond_its_limit() -> None:
    shown = rows_of_the_page()
    made = [
        (kind.name, f"{ratio:g}:1" if len(kind.rows) > 1 else "", len(kind.looks))
        for kind in kinds()
        for ratio in kind.ratios
    ]
    assert [(name, noise, len(power.split())) for name, noise, _, _, power in shown] == made
    assert all(error < upper <= LIMIT for _, _, error, upper, _ in shown)


STATEMENTS = sorted(
    name
    for name, field in Claim.model_fields.items()
    if any(hasattr(part, "model_fields") and "metrics" in part.model_fields for part in get_args(field.annotation))
)


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("images", [False, True], ids=["seed noise alone", "test-set error too"])
def test_every_statement_is_simulated_at_equal_and_unequal_noise(statement: str, images: bool) -> None:
    if statement == "trend" and images:
        pytest.skip("a curve over epochs has no test-set error")
    of_it = [kind for kind in kinds() if statement in kind.statement and (kind.metric == ACCURACY) == images]
    assert of_it
    assert all(set(kind.ratios) >= set(UNEQUAL) for kind in of_it if len(kind.rows) > 1 and len(kind.looks) > 1)
    if statement in ("difference", "interaction", "value"):
        bounds = [kind.statement[statement] for kind in of_it]
        assert any("within" in bound for bound in bounds) and any("within" not in bound for bound in bounds)


def at_the_nearest_bound(kind: Kind, ratio: float, tables: int) -> list[tuple[float, float]]:
    """(distance of the mean effect from the nearest bound, its standard error) of each comparison."""
    made = outcomes(np.random.default_rng(3), kind, ratio, kind.at_edge(ratio), tables)
    found = []
    for contrast in contrasts(kind.claim, list(kind.rows)):
        effect = np.zeros(tables)
        for row, weights in contrast.weights.items():
            of_row = [outcome for (name, _), outcome in made.items() if name == row]
            for metric, weight in weights.items():
                effect = effect + weight * np.mean([outcome.values[metric] for outcome in of_row], axis=0)
        bounds = [bound for bound in (contrast.low, contrast.high) if np.isfinite(bound)]
        distance = min(abs(float(effect.mean()) - bound) for bound in bounds)
        found.append((distance, float(effect.std(ddof=1)) / tables**0.5))
    return found


SURE = "above, 5 rows, three of them surely"


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_a_table_of_errors_is_at_the_edge_of_its_claim(kind: Kind) -> None:
    for ratio in kind.ratios[-1:]:
        near = at_the_nearest_bound(kind, ratio, 300)
        at_edge = [distance <= 4.0 * error for distance, error in near]
        assert sum(at_edge) == (1 if kind.name == SURE else len(near)), near
