"""From a claim to what is compared: weighted sums of rows, each with the region where the claim says it lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ablate.report.names import column_name
from ablate.report.results import TREND
from ablate.report.verdicts.evidence import Weights
from ablate.spaces.claims import (
    Above,
    Below,
    Best,
    Claim,
    Difference,
    Gain,
    Interaction,
    Ordering,
    Pairwise,
    Trend,
    Value,
)
from ablate.spaces.metrics import is_accuracy


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of rows and the region where a claim says it lies.

    Attributes:
        words: What is compared, e.g. `128 − 512, PGD-20`.
        weights: Row -> metric -> weight.
        low: Lower bound of the region.
        high: Upper bound.
        signed: Whether it is a difference, shown with its sign.
    """

    words: str
    weights: Weights
    low: float = -math.inf
    high: float = math.inf
    signed: bool = True

    @property
    def unit(self) -> str:
        """What its effect is in: `points` of accuracy, else the metric's readable name."""
        metrics = [metric for row in self.weights.values() for metric in row]
        if all(map(is_accuracy, metrics)):
            return "points"
        return "Kendall's tau" if metrics[0].startswith(TREND) else column_name(metrics[0])


def contrasts(claim: Claim, rows: Sequence[str]) -> list[Contrast]:
    """The comparisons a claim consists of.

    Args:
        claim: The claim.
        rows: All rows of the table, for `best` without `among`.

    Returns:
        One for each metric and pair of rows; empty where there is no other row.
    """
    statement = claim.statement
    metrics = statement.metrics
    match statement:
        case Above():
            return [_above(statement.row, other, metric) for metric in metrics for other in statement.rows]
        case Below():
            return [_above(other, statement.row, metric) for metric in metrics for other in statement.rows]
        case Pairwise():
            return [_above(high, low, metric) for metric in metrics for high, low in statement.pairs]
        case Best():
            others = [row for row in statement.among or rows if row != statement.row]
            return [_above(statement.row, other, metric) for metric in metrics for other in others]
        case Ordering():
            steps = list(zip(statement.rows, statement.rows[1:], strict=False))
            up = statement.direction == "increases"
            return [_above(b, a, m) if up else _above(a, b, m) for m in metrics for a, b in steps]
        case Difference():
            low, high = _region(statement.at_least, statement.at_most, statement.within, 0.0)
            return [_difference(statement.row, statement.minus, metric, low, high) for metric in metrics]
        case Gain():
            return [_gain(row, statement.over, metric, statement.than) for metric in metrics for row in statement.rows]
        case Interaction():
            return [_interaction(statement, metric) for metric in metrics]
        case Value():
            low, high = _region(statement.at_least, statement.at_most, statement.within, statement.reference or 0.0)
            words = f"{statement.row}, {{}}{_range_words(low, high)}"
            return [
                Contrast(words.format(column_name(metric)), {statement.row: {metric: 1.0}}, low, high, signed=False)
                for metric in metrics
            ]
        case Trend():
            region = (0.0, math.inf) if statement.direction == "increases" else (-math.inf, 0.0)
            words = f"{statement.row}, {{}} over the epochs (Kendall's tau)"
            return [Contrast(words.format(column_name(m)), {statement.row: {TREND + m: 1.0}}, *region) for m in metrics]
        case _:
            raise TypeError(f"expected a statement of a claim, got {type(statement).__name__}")


def _above(high: str, low: str, metric: str) -> Contrast:
    return Contrast(f"{high} − {low}, {column_name(metric)}", {high: {metric: 1.0}, low: {metric: -1.0}}, low=0.0)


def _difference(row: str, minus: str, metric: str, low: float, high: float) -> Contrast:
    words = f"{row} − {minus}, {column_name(metric)}{_range_words(low, high)}"
    return Contrast(words, {row: {metric: 1.0}, minus: {metric: -1.0}}, low, high)


def _gain(row: str, over: str, metric: str, than: str) -> Contrast:
    words = f"({row} − {over}) on {column_name(metric)} less that on {column_name(than)}"
    return Contrast(words, {row: {metric: 1.0, than: -1.0}, over: {metric: -1.0, than: 1.0}}, low=0.0)


def _interaction(statement: Interaction, metric: str) -> Contrast:
    both, one, other, neither = (label for _, label in statement.named_rows())
    words = f"({both} − {other}) − ({one} − {neither}), {column_name(metric)}"
    low, high = _region(statement.at_least, statement.at_most, statement.within, 0.0)
    if math.isinf(low) and math.isinf(high):
        low = 0.0
    else:
        words += _range_words(low, high)
    weights = {both: {metric: 1.0}, other: {metric: -1.0}, one: {metric: -1.0}, neither: {metric: 1.0}}
    return Contrast(words, weights, low, high)


def _region(
    at_least: float | None, at_most: float | None, within: float | None, reference: float
) -> tuple[float, float]:
    if within is not None:
        return reference - within, reference + within
    return (-math.inf if at_least is None else at_least), (math.inf if at_most is None else at_most)


def _range_words(low: float, high: float) -> str:
    if math.isinf(high):
        return f" (claimed: at least {low:g})"
    return f" (claimed: at most {high:g})" if math.isinf(low) else f" (claimed: {low:g} to {high:g})"
