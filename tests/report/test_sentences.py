"""What a comparison says in words: no rounding makes another statement of it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ablate.report.verdicts.verdicts import HOLDS, Comparison, judge
from ablate.spaces.looks import Design
from tests.support.verdict_tables import claim, scalars


def comparison(confidence: float = 0.97, unit: str = "points", effect: float = 1.0) -> Comparison:
    ends = effect / 2, effect * 1.5
    return Comparison("a − b", HOLDS, effect, *ends, confidence, 0.01, {"a": 3, "b": 3}, "t test", unit=unit)


def confidence_in(sentence: str) -> float:
    found = re.search(r"\(([\d.]+) % interval", sentence)
    assert found is not None, sentence
    return float(found[1]) / 100.0


def test_an_interval_is_never_said_to_be_certain() -> None:
    """Of many comparisons at a late look each has a level of some thousandths of a percent."""
    for level in np.geomspace(1e-9, 0.5, 200):
        told = confidence_in(comparison(1.0 - level).sentence())
        assert 0.0 < 1.0 - told < 1.0
        assert 1.0 - told == pytest.approx(level, rel=0.5, abs=0.0005)


@pytest.mark.parametrize(
    ("level", "words"), [(0.03, "97 %"), (0.0075, "99.2 %"), (0.002, "99.8 %"), (4e-5, "99.996 %")]
)
def test_it_has_as_many_digits_as_it_needs(level: float, words: str) -> None:
    assert f"({words} interval" in comparison(1.0 - level).sentence()


def test_a_scalars_effect_has_the_digits_of_its_table() -> None:
    rows = {"a": [0.253, 0.254, 0.255], "b": [0.250, 0.2501, 0.2502]}
    about = claim(above={"row": "a", "rows": ["b"], "metrics": ["spectrum/share"]})
    told = judge(about, scalars(rows, "spectrum/share"), design=Design(looks=(3,))).sentence()
    assert "+0.004" in told and "+0.00 " not in told
    assert "+1.00" in comparison().sentence() and "+1.000" in comparison(unit="R = LFI/HFI").sentence()
