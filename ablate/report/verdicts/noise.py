"""What makes the noise of a table: seeds, test images, or both together; and which of them to have more of.

A comparison's error is of two-way random effects: Var = s_t^2/n + s_i^2/N + s_ti^2/(nN), of trainings, of images, and
of what trainings disagree on image by image. Twice the seeds halve the first and the last part, twice the test images
the second and the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ablate.report.names import column_name
from ablate.report.results import Results
from ablate.report.verdicts.contrasts import contrasts
from ablate.report.verdicts.evidence import Parts, Weights, parts_of
from ablate.spaces.claims import Trend
from ablate.spaces.metrics import is_accuracy

_ALIKE = 0.05
"""Where twice the seeds and twice the images come to the same within this share, neither is better."""


@dataclass(frozen=True)
class ColumnNoise:
    """The error of a comparison on one column, as the mean over the comparisons.

    Attributes:
        metric: Of the comparisons.
        comparisons: How many there are.
        n: Seeds a row, the fewest.
        images: Test images, the fewest.
        parts: Variances, in points squared.
    """

    metric: str
    comparisons: int
    n: int
    images: int
    parts: Parts

    def as_json(self) -> dict[str, Any]:
        """As plain data: standard errors in points."""
        return {
            "metric": self.metric,
            "comparisons": self.comparisons,
            "n": self.n,
            "test_images": self.images,
            "error": math.sqrt(self.parts.total),
            "from_seeds": math.sqrt(self.parts.seeds),
            "from_images": math.sqrt(self.parts.images),
            "from_both": math.sqrt(self.parts.both),
        }


@dataclass(frozen=True)
class TableNoise:
    """What makes the noise of a table's comparisons, column by column."""

    columns: tuple[ColumnNoise, ...]

    @property
    def parts(self) -> Parts:
        """The mean over the columns."""
        return _mean([column.parts for column in self.columns])

    @property
    def sentence(self) -> str:
        """More seeds, or more test images?"""
        found = self.parts
        seeds, images = (
            math.sqrt(variance)
            for variance in (
                found.images + (found.seeds + found.both) / 2,
                found.seeds + (found.images + found.both) / 2,
            )
        )
        if abs(seeds - images) <= _ALIKE * math.sqrt(found.total):
            advice = "More seeds or more test images, both help alike"
        else:
            advice = "More seeds" if seeds < images else "More test images"
        shares = [f"{100 * part / found.total:.0f} %" for part in (found.seeds, found.images, found.both)]
        now = math.sqrt(found.total)
        return (
            f"{advice}: of the variance of a comparison's error seeds make {shares[0]}, test images {shares[1]}, the "
            f"two together {shares[2]}; twice the seeds bring the error from {now:.2f} to {seeds:.2f} points, "
            f"twice the test images to {images:.2f}."
        )


def table_noise(results: Results) -> TableNoise | None:
    """What makes the noise of the comparisons that a table's claims are about; of every row with the first one, else.

    Returns:
        None where fewer than two seeds are there, or where no accuracy is compared.
    """
    found: dict[str, list[tuple[Parts, int]]] = {}
    for weights in _comparisons(results):
        [metric, *others] = dict.fromkeys(name for metrics in weights.values() for name in metrics)
        if others or not is_accuracy(metric):
            continue
        table = {row: results.of(row, tuple(metrics)) for row, metrics in weights.items()}
        parts = parts_of(weights, table)
        if parts is not None and parts.total > 0:
            found.setdefault(metric, []).append((parts, min(map(len, table.values()))))
    columns = [
        ColumnNoise(
            metric,
            len(seen),
            min(n for _, n in seen),
            min(parts.test_images for parts, _ in seen),
            _mean([parts for parts, _ in seen]),
        )
        for metric, seen in found.items()
    ]
    return TableNoise(tuple(columns)) if columns else None


def _comparisons(results: Results) -> list[Weights]:
    labels = [row.label for row in results.space.rows]
    claims = [claim for claim in results.claims if not isinstance(claim.statement, Trend)]
    asked = [contrast.weights for claim in claims for contrast in contrasts(claim, labels)]
    if not asked and labels:
        columns = dict.fromkeys(name for o in results.outcomes.values() for name in o.values if is_accuracy(name))
        asked = [{row: {name: 1.0}, labels[0]: {name: -1.0}} for name in columns for row in labels[1:]]
    each: dict[str, Weights] = {repr(weights): weights for weights in asked}  # of several claims once
    return list(each.values())


def _mean(parts: Sequence[Parts]) -> Parts:
    count = len(parts)
    return Parts(
        math.fsum(each.seeds for each in parts) / count,
        math.fsum(each.images for each in parts) / count,
        math.fsum(each.both for each in parts) / count,
        min(each.test_images for each in parts),
    )


def lines(noise: TableNoise) -> list[str]:
    """The columns for a terminal, one line each."""
    return [
        f"{column_name(each.metric)}: error {math.sqrt(each.parts.total):.2f} of {each.n} seeds and {each.images} test "
        f"images; from seeds {math.sqrt(each.parts.seeds):.2f}, images {math.sqrt(each.parts.images):.2f}, both "
        f"{math.sqrt(each.parts.both):.2f}"
        for each in noise.columns
    ]


def as_json(results: Iterable[Results]) -> list[dict[str, Any]]:
    """What makes the noise of several tables, as plain data."""
    found = [(each, table_noise(each)) for each in results if each.planned.judges_claims]
    return [
        {
            "space": each.planned.spaces[0].name,
            "sentence": noise.sentence,
            "columns": [column.as_json() for column in noise.columns],
        }
        for each, noise in found
        if noise is not None
    ]
