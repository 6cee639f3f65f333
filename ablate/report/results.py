"""What reports are made from: for each row and seed the numbers, and which images were classified correctly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ablate.spaces.specs import COLUMNS

TREND = "trend/"
"""What the name of a curve's rank correlation with the epoch begins with."""

PAPER_TEST_IMAGES = 10_000
"""CIFAR-10's test split, behind every published number."""

_BASELINES = (
    (76.67, 71.24, 49.34, 43.12, 43.01, 62.45, 39.78),  # Table 1, degree 32; printed again in Tables 4 and 5
    (75.02, 70.70, 48.09, 42.89, 42.87, 62.40, 40.75),  # Table 2, batch size 512
    (74.91, 70.44, 47.93, 42.13, 42.15, 62.32, 40.64),  # Table 3, no augmentation
)
PAPER_BASELINES: tuple[Mapping[str, float], ...] = tuple(dict(zip(COLUMNS, row, strict=True)) for row in _BASELINES)
"""The one ResNet-20 that the paper trained three times: the only sight of its noise between trainings."""


@dataclass(frozen=True)
class Outcome:
    """What one row with one seed gave.

    Attributes:
        training_key: Which training the numbers were measured on; rows with the same one share the network.
        values: Metric -> value; accuracies in percent.
        correct: Accuracy metric -> [N] bool, which test images were classified correctly, in the test set's order.
        test_key: Which test set; images are paired only between equal ones.
        images: How many test images, for accuracies whose `correct` was not kept.
        curves: Metric -> its value at each epoch, in order.
    """

    training_key: str
    values: Mapping[str, float]
    correct: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    test_key: str = ""
    images: int | None = None
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """The outcomes of one table.

    Attributes:
        outcomes: (row label, seed) -> outcome.
        problems: (row label, seed) -> why there is no outcome ("failed: loss became nan in epoch 3", "not trained",
            "not measured").
        noise: Repetitions of one training from elsewhere, whose spread stands for the noise between trainings;
            empty: the noise is that of the outcomes themselves.
    """

    outcomes: Mapping[tuple[str, int], Outcome]
    problems: Mapping[tuple[str, int], str] = field(default_factory=dict)
    noise: tuple[Mapping[str, float], ...] = ()

    def rows(self) -> list[str]:
        """The labels that have an outcome, in order of appearance."""
        return list(dict.fromkeys(row for row, _ in self.outcomes))

    def of(self, row: str, metrics: Sequence[str] = ()) -> list[Outcome]:
        """The outcomes of a row that have all of some metrics, by seed.

        Args:
            row: Its label.
            metrics: What an outcome must have, as a finite number.

        Returns:
            In the order of the seeds.
        """
        found = sorted((seed, outcome) for (label, seed), outcome in self.outcomes.items() if label == row)
        return [outcome for _, outcome in found if all(math.isfinite(outcome.values.get(m, math.nan)) for m in metrics)]

    def values(self, row: str, metric: str) -> list[float]:
        """The finite values of a metric of a row, in the order of the seeds."""
        return [outcome.values[metric] for outcome in self.of(row, (metric,))]

    def reasons(self, row: str) -> list[str]:
        """Why outcomes of a row are missing, by seed: `seed 1: failed: ...`."""
        return [f"seed {seed}: {reason}" for (label, seed), reason in sorted(self.problems.items()) if label == row]

    def with_trends(self, metrics: Sequence[str]) -> Results:
        """The same results with each curve's trend over the epochs as one more value.

        Args:
            metrics: Curves.

        Returns:
            With `trend/<metric>` = Kendall's tau-b between epoch and value, in [-1, 1]; left out where a curve has
            fewer than three epochs.
        """
        outcomes = {}
        for key, outcome in self.outcomes.items():
            trends = {}
            for metric in metrics:
                curve = np.asarray(outcome.curves.get(metric, ()), dtype=float)
                if curve.size >= 3 and np.isfinite(curve).all():
                    tau = stats.kendalltau(np.arange(curve.size), curve).statistic
                    trends[TREND + metric] = 0.0 if math.isnan(tau) else float(tau)  # nan: the curve is constant
            outcomes[key] = dataclasses.replace(outcome, values={**outcome.values, **trends})
        return dataclasses.replace(self, outcomes=outcomes)


def published_results(
    published: Mapping[str, Mapping[str, float]],
    noise: Sequence[Mapping[str, float]] = PAPER_BASELINES,
    images: int = PAPER_TEST_IMAGES,
) -> Results:
    """A published table in the form that claims are judged from.

    Every row counts as a training of its own, also where the paper measured one network at several degrees: what its
    trainings share cannot be told from one number each, and counting nothing as shared never narrows an interval.

    Args:
        published: Row label -> metric -> value in percent; rows without numbers are left out.
        noise: Repetitions of one training, for the noise between trainings.
        images: Test images behind each number.

    Returns:
        One outcome a row, under seed 0.
    """
    return Results(
        outcomes={
            (row, 0): Outcome(training_key=f"published {row}", values=dict(values), test_key="published", images=images)
            for row, values in published.items()
            if values
        },
        noise=tuple(noise),
    )
