"""How a comparison is decided: its p-value, Holm's correction, and how many trainings would decide it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from scipy import stats

from ablate.report.verdicts.contrasts import Contrast
from ablate.report.verdicts.evidence import Estimate

POWER = 0.8
"""With how much probability the trainings asked for would decide, were effect and noise what they seem."""

MOST_TRAININGS = 1000
"""More trainings a row than this are not asked for."""


def holm(p_values: Mapping[int, float], alpha: float) -> tuple[dict[int, float], dict[int, float]]:
    """Holm's step-down procedure: (the level each comparison is tested at, its adjusted p-value).

    The k-th smallest of m is tested at alpha/(m - k + 1) until one is not rejected; the rest share that one's level, so
    that an interval at a comparison's own level decides just as the procedure does.
    """
    levels: dict[int, float] = {}
    adjusted: dict[int, float] = {}
    left, level, stopped, largest = len(p_values), alpha, False, 0.0
    for index in sorted(p_values, key=lambda i: p_values[i]):
        largest = max(largest, min(1.0, left * p_values[index]))
        adjusted[index] = largest
        level = level if stopped else alpha / left
        levels[index] = level
        stopped = stopped or p_values[index] > level
        left -= 1
    return levels, adjusted


def p_value(contrast: Contrast, found: Estimate) -> float:
    """Two-sided p-value of deciding where the effect lies: inside the region or outside, whichever is nearer.

    The larger one of pooled noise and the rows' own. Without any spread nothing is known of it, and nothing is decided,
    but for rows of the same trainings, which are then the same.
    """
    return max(_p_value(contrast, found, error, df) for error, df in found.errors())


def _p_value(contrast: Contrast, found: Estimate, error: float, df: float) -> float:
    if error == 0.0 and not found.paired_rows:
        return 1.0
    above_low = _upper_tail(found.effect - contrast.low, error, df)
    below_high = _upper_tail(contrast.high - found.effect, error, df)
    outside = min(
        _upper_tail(contrast.low - found.effect, error, df), _upper_tail(found.effect - contrast.high, error, df)
    )
    return min(1.0, 2.0 * min(max(above_low, below_high), outside))


def half_width(found: Estimate, level: float) -> tuple[float, float]:
    """Half of the interval at a level, the wider one of pooled noise and the rows' own, and its degrees of freedom."""
    return max((float(stats.t.isf(level / 2, df)) * error if error else 0.0, df) for error, df in found.errors())


def _upper_tail(distance: float, error: float, df: float) -> float:
    """P(T >= distance / error); without any error the distance's sign decides, and 0 decides nothing."""
    if math.isinf(distance):
        return 0.0 if distance > 0 else 1.0
    if error == 0.0:
        return 0.0 if distance > 0 else 1.0 if distance < 0 else 0.5
    return float(stats.t.sf(distance / error, df))


def _power(contrast: Contrast, found: Estimate, error: float, df: float, level: float) -> float:
    """With how much probability an effect as it seems is decided; inside of two bounds, both have to be kept."""
    if error == 0.0:
        return 1.0
    needed = float(stats.t.isf(level / 2, df))
    if contrast.low < found.effect < contrast.high:
        ends = (found.effect - contrast.low, contrast.high - found.effect)
        missed = sum(float(stats.t.sf(end / error - needed, df)) for end in ends if math.isfinite(end))
        return 1.0 - missed
    return float(stats.t.cdf(gap(contrast, found) / error - needed, df))


def gap(contrast: Contrast, found: Estimate) -> float:
    """How far the effect is from the nearest bound of the region."""
    return min(abs(found.effect - bound) for bound in (contrast.low, contrast.high) if math.isfinite(bound))


def trainings_to_decide(contrast: Contrast, found: Estimate, level: float) -> int | None:
    """The fewest trainings a row that decide with probability 0.8, were effect and noise what they seem.

    Args:
        contrast: With its region.
        found: What is known of it.
        level: The level it is tested at.

    Returns:
        More than the row with the fewest has; None where no number up to `MOST_TRAININGS` would.
    """
    distance = gap(contrast, found)

    def enough(trainings: int) -> bool:
        return all(_power(contrast, found, error, df, level) > POWER for error, df in found.errors(trainings))

    least = max(2, min(found.counts.values()) + 1)
    if distance == 0.0 or not enough(MOST_TRAININGS):
        return None
    low, high = least - 1, MOST_TRAININGS  # enough(high); the answer lies in (low, high]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def images_forbid(contrast: Contrast, found: Estimate, level: float) -> bool:
    """Whether the test-set error alone keeps any number of trainings from deciding; arguments as above."""
    needed = float(stats.norm.isf(level / 2) + stats.norm.isf(1 - POWER))
    return gap(contrast, found) <= needed * math.sqrt(found.image_variance)
