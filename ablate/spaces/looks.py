"""How a space's claims are decided: at which numbers of seeds, in which order of them, and what a failed one counts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ablate.spaces.specs import Spec

DEFAULT_LOOKS = (3, 5, 8, 13, 21)
"""Seeds a row at which claims are decided where a space says nothing else."""

MOST_LOOKS = 50


def _rising(looks: tuple[int, ...]) -> tuple[int, ...]:
    for before, after in itertools.pairwise(looks):
        if after <= before:
            raise ValueError(
                f"expected looks that rise, each more seeds than the one before, got {after} after {before}"
            )
    return looks


def _once(seeds: tuple[int, ...] | None) -> tuple[int, ...] | None:
    for number, seed in enumerate(seeds or ()):
        if seed in (seeds or ())[:number]:
            raise ValueError(f"expected each seed once, got {seed} twice")
    return seeds


Looks = Annotated[
    tuple[Annotated[int, Field(ge=2, le=10_000)], ...],
    Field(strict=False, min_length=1, max_length=MOST_LOOKS),
    AfterValidator(_rising),
]
Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...] | None,
    Field(strict=False, max_length=10_000),
    AfterValidator(_once),
]
Failures = Literal["worst", "exclude"]


class Design(Spec):
    """When claims are decided; a space says it beforehand.

    Attributes:
        looks: Seeds a row at which verdicts are taken.
        seeds: The order in which looks count seeds.
        failures: What a training that failed for good counts: accuracy 0, or its seed is left out of all rows; without
            a rule it keeps the looks that need it from being taken.
    """

    looks: Looks = DEFAULT_LOOKS
    seeds: Seeds = None
    failures: Failures | None = None

    def first(self, count: int) -> Sequence[int]:
        """The seeds of a look."""
        return range(count) if self.seeds is None else self.seeds[:count]
