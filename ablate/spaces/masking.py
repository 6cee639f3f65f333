"""Which columns a search without gradients can show to be masked, and what a claim on such a column says of the worst.

What is claimed the second time follows from the claim alone, so that it is known before anything is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from ablate.spaces.claims import Claim, Trend
from ablate.spaces.metrics import Metric

GRADIENT_COLUMNS = ("pgd20", "bim20", "apgd_ce", "apgd_t", "fab_t")
"""Columns of attacks that follow the label's gradient step by step in the ball that `square` searches without any."""

SEARCH = "square"
WORST = "worst"


def can_be_masked(name: str) -> bool:
    """Whether a column, by its name in tables, is one that gradients can fail in; also an adaptive one."""
    return Metric.from_name(name).column in GRADIENT_COLUMNS


def search_beside(name: str) -> str:
    """The search in the same ball, and through the same filter, as an attack: `square` or `adaptive/square`."""
    return Metric(SEARCH, adaptive=Metric.from_name(name).adaptive).name


def on_the_worst(claim: Claim) -> Claim | None:
    """What a claim says where its columns that can be masked are not trusted.

    Args:
        claim: As the space has it.

    Returns:
        The same statement about `worst` (and `adaptive/worst`) alone; None where nothing in it can be masked.
    """
    statement = claim.statement
    if isinstance(statement, Trend) or not any(map(can_be_masked, statement.metrics)):
        return None
    fields = statement.model_dump()
    fields["metrics"] = _replaced(name for name in statement.metrics if can_be_masked(name))
    if "than" in fields and can_be_masked(fields["than"]):
        [fields["than"]] = _replaced([fields["than"]])
    try:
        said = claim.model_dump(include={"says", "note", "source", "question"})
        return Claim.model_validate({**said, claim.kind: fields})
    except ValidationError:  # a gain of one masked column over another
        return None


def second_claims(claims: Sequence[Claim], columns: Iterable[str]) -> dict[int, Claim]:
    """The second claims that a table can have.

    Args:
        claims: Of the space.
        columns: The attacks that its rows are measured with; without a search nothing is found to be masked.

    Returns:
        Number of a claim -> what is claimed the second time.
    """
    found = {number: on_the_worst(claim) for number, claim in enumerate(claims)} if SEARCH in set(columns) else {}
    return {number: claim for number, claim in found.items() if claim is not None}


def _replaced(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(Metric(WORST, adaptive=Metric.from_name(name).adaptive).name for name in names))
