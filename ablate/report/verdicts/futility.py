"""Whether more seeds are worth their time: how probably a claim that is open is decided by the looks left.

The *predictive probability*: seeds to come are drawn with the effect and the noise that those there are show, and are
looked at, together with these, by the very code that decides. The test-set error stays what it is: the images are the
same at every look. It tells what to spend, and never decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablate.report.results import TREND, Outcome
from ablate.report.verdicts.contrasts import Contrast
from ablate.report.verdicts.decisions import Standing
from ablate.report.verdicts.evidence import Array, Table, estimate
from ablate.spaces.metrics import is_accuracy

HOPELESS = 0.1
"""A claim that is decided less probably than this gets no more seeds."""

DRAWS = 2000
_SEED = 20_240_501


@dataclass(frozen=True)
class NextLook:
    """A look that may be taken yet.

    Attributes:
        number: From 0 on.
        more: Seeds a row that it has beyond the last one taken.
        level: Its level.
    """

    number: int
    more: int
    level: float


@dataclass(frozen=True)
class Prospect:
    """What an open claim may come to.

    Attributes:
        chance: That a look within reach decides it.
        value: The best of chance for cost, by which claims have their turns.
    """

    chance: float
    value: float

    @property
    def hopeless(self) -> bool:
        """Whether it gets no more seeds."""
        return self.chance < HOPELESS


def prospect(chances: Sequence[float], costs: Sequence[float], left: float) -> Prospect:
    """What an open claim may come to within a budget.

    Args:
        chances: That it is decided by each of the looks left, or one before it.
        costs: What is to be spent up to each of them.
        left: Of the budget; infinite without one.
    """
    within = [(chance, cost) for chance, cost in zip(chances, costs, strict=True) if cost <= left]
    best = max((chance / cost if cost > 0.0 else np.inf for chance, cost in within), default=0.0)
    return Prospect(max((chance for chance, _ in within), default=0.0), best)


def chances(
    asked: Sequence[Contrast], table: Table, standing: Standing, left: Sequence[NextLook], draws: int = DRAWS
) -> Array:
    """The predictive probabilities that a claim is decided by each of the looks left.

    The random numbers are always the same ones: the same seeds give the same probability everywhere.

    Args:
        asked: Its comparisons.
        table: The outcomes of the last look taken.
        standing: What has come of the claim so far; it is open.
        left: The looks that may be taken yet, in their order.
        draws: How many futures are drawn.

    Returns:
        [looks, ...tables] that it is decided by this look or one before it.
    """
    shape = standing.claim.shape
    if not left:
        return np.zeros((0, *shape))
    whole = (draws, *shape)
    future = _futures(table, left[-1].more, whole)
    now = [estimate(contrast.weights, table) for contrast in asked]
    known = {row: [_bare(outcome, whole) for outcome in outcomes] for row, outcomes in table.items()}
    comparisons = (len(asked), *whole)
    course = Standing(*(np.broadcast_to(part[:, None], comparisons).copy() for part in dataclasses.astuple(standing)))
    by_look = []
    for look in left:
        seen = {row: [*known[row], *future[row][: look.more]] for row in table}
        found = [
            dataclasses.replace(
                estimate(contrast.weights, seen), image_variance=here.image_variance, images=here.images, same=here.same
            )
            for contrast, here in zip(asked, now, strict=True)
        ]
        course.take(look.number, asked, found, look.level)
        by_look.append((course.claim != 0).mean(axis=0))
    return np.stack(by_look)


def _bare(outcome: Outcome, shape: tuple[int, ...]) -> Outcome:
    """An outcome without its images: their number stays, a metric's resolution hangs on it."""
    images = min((found.shape[-1] for found in outcome.correct.values()), default=outcome.images)
    values: dict[str, Any] = {metric: np.broadcast_to(value, shape) for metric, value in outcome.values.items()}
    return Outcome(outcome.training_key, values, images=images, curves=outcome.curves)


def _futures(table: Table, more: int, shape: tuple[int, ...]) -> dict[str, list[Outcome]]:
    """Trainings to come of each row; rows that share their trainings share their luck."""
    rng = np.random.default_rng(_SEED)
    sharing: dict[tuple[str, ...], list[str]] = {}
    for row, outcomes in table.items():
        sharing.setdefault(tuple(outcome.training_key for outcome in outcomes), []).append(row)
    made: dict[str, list[Outcome]] = {}
    for keys, rows in sharing.items():
        count = len(keys)
        # Sums of residuals with normal weights have the seeds' own covariance, however many metrics there are.
        spread = 1.0 / np.sqrt(max(count - 1, 1))
        luck = [spread * rng.standard_normal((count, *shape)) for _ in range(more)]
        for row in rows:
            outcomes = [_bare(outcome, shape[1:]) for outcome in table[row]]
            values: dict[str, Any] = {
                metric: np.stack([np.asarray(each.values[metric]) for each in outcomes])
                for metric in outcomes[0].values
                if all(metric in each.values for each in outcomes)
            }
            made[row] = [
                dataclasses.replace(
                    outcomes[0],
                    training_key=f"to come {keys[0]} {number}",
                    values=dict(_drawn(metric, found, each) for metric, found in values.items()),
                )
                for number, each in enumerate(luck)
            ]
    return made


def _drawn(metric: str, found: Array, luck: Array) -> tuple[str, Any]:
    middle = found.mean(axis=0)
    value = middle + np.einsum("i...,id...->d...", found - middle, luck)
    low, high = (0.0, 100.0) if is_accuracy(metric) else (-1.0, 1.0) if metric.startswith(TREND) else (-np.inf, np.inf)
    return metric, np.clip(value, low, high)
