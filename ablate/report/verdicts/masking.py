"""Masked columns: where a search that asks for no gradient leaves fewer images right than an attack that follows them.

Such an attack is too weak there: its gradients mislead it, or the loss that it climbs is not what decides (then an
attack by gradients on another loss, `apgd_t`, finds as much as the search). A column of a row is masked where `square`,
in the same ball, network and filter, is right on fewer images: one-sided at 1 %, paired over images and seeds by the
evidence of all verdicts (`evidence`), Holm's correction over the row's columns. One seed alone is judged by its images:
what is marked are the numbers that are shown.

A claim on a masked column keeps its verdict and gets a second one on `worst`, which follows from the claim alone
(`ablate.spaces.masking`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablate.report.names import column_name
from ablate.report.results import Outcome, Results
from ablate.report.verdicts.contrasts import Contrast
from ablate.report.verdicts.decisions import smallest_level
from ablate.report.verdicts.evidence import estimate
from ablate.report.verdicts.verdicts import Verdict, judge, standing_of
from ablate.spaces.masking import GRADIENT_COLUMNS, on_the_worst, search_beside
from ablate.spaces.metrics import Metric

ALPHA = 0.01
"""How often a column of a row may be marked wrongly."""


MASKABLE = tuple(Metric(name, adaptive=adaptive).name for adaptive in (False, True) for name in GRADIENT_COLUMNS)

SECOND = "Ours, on the worst of all attacks"
"""Whose verdict the second one is, as reports say it."""


@dataclass(frozen=True)
class Masked:
    """A column of a row whose attack is beaten by a search without gradients.

    Attributes:
        row: The row's label.
        column: As tables have it, `pgd20` or `adaptive/pgd20`.
        points: How much of its accuracy the search takes away.
        p: Holm-adjusted, one-sided.
    """

    row: str
    column: str
    points: float
    p: float

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)


def masked_columns(results: Results) -> list[Masked]:
    """The columns that are masked.

    Args:
        results: Of a table; columns without `square` beside them are not looked at.

    Returns:
        In the order of the rows and of the columns' names.
    """
    found = []
    for row in results.rows():
        measured = {name for outcome in results.of(row) for name in outcome.values}
        names = [name for name in MASKABLE if name in measured]
        tested: dict[str, tuple[float, float]] = {}
        for name in names:
            search = search_beside(name)
            both = [_on_the_same_images(outcome, name, search) for outcome in results.of(row, (name, search))]
            if both:
                contrast = Contrast(f"{name} - {search}", {row: {name: 1.0, search: -1.0}}, low=0.0)
                seen = estimate(contrast.weights, {row: both})
                # Half of what both sides together would be: only a search that finds more counts.
                p = smallest_level(contrast, seen) / 2 if seen.effect > 0 else 1.0
                tested[name] = (float(seen.effect), p)
        adjusted = holm({name: p for name, (_, p) in tested.items()})
        found += [
            Masked(row, name, effect, adjusted[name])
            for name, (effect, _) in tested.items()
            if adjusted[name] <= ALPHA and effect > 0
        ]
    return found


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted by Holm's procedure: the k-th smallest of m times m - k + 1, and never less than those before it."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for number, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = adjusted[name] = max(largest, min(1.0, (len(p_values) - number) * p_values[name]))
    return adjusted


def _on_the_same_images(outcome: Outcome, name: str, search: str) -> Outcome:
    """Two columns on the images that both were measured on: `measurement.images` are the first ones."""
    names = (name, search)
    arrays = {each: outcome.correct[each] for each in names if each in outcome.correct}
    if len(arrays) < len(names):  # not kept: their means are all there is
        return dataclasses.replace(outcome, values={each: outcome.values[each] for each in names}, correct={})
    count = min(array.shape[-1] for array in arrays.values())
    cut = {each: array[:count] for each, array in arrays.items()}
    values = {each: 100.0 * float(array.mean()) for each, array in cut.items()}
    return dataclasses.replace(outcome, values=values, correct=cut, images=count)


def notes_of(masked: Sequence[Masked]) -> dict[str, list[str]]:
    """What a table says below itself: row -> sentences."""
    notes: dict[str, list[str]] = {}
    for row in dict.fromkeys(each.row for each in masked):
        of_row = [each for each in masked if each.row == row]
        told = ", ".join(f"{column_name(each.column)} by {each.points:.1f} points" for each in of_row)
        why = "too weak there, by their gradients or their loss, and worst counts"
        notes[row] = [f"masked, Square is below: {told}; these attacks are {why}"]
    return notes


def second_verdicts(results: Results, masked: Sequence[Masked] | None = None) -> dict[int, Verdict]:
    """The verdicts on `worst` of claims about masked columns.

    Args:
        results: Of a plan.
        masked: Where they are known already.

    Returns:
        Number of the claim -> its second verdict; claims whose columns are not masked have none.
    """
    marked = {(each.row, each.column) for each in (masked_columns(results) if masked is None else masked)}
    [space] = results.planned.spaces
    labels = [row.label for row in space.rows]
    found: dict[int, Verdict] = {}
    for number, claim in enumerate(results.claims):
        used = {(row, use.metric) for use in claim.metric_uses(number, labels) for row in use.rows}
        second = on_the_worst(claim) if used & marked else None
        if second is not None:
            verdict = judge(second, results, rows=labels, design=space.design)
            found[number] = dataclasses.replace(verdict, standing=standing_of(space, number, second=True))
    return found


def as_json(results: Sequence[Results]) -> list[dict[str, Any]]:
    """The masked columns of several tables as plain data."""
    return [
        {"space": each.planned.spaces[0].name, "network": each.network, **one.as_json()}
        for each in results
        for one in masked_columns(each)
    ]
