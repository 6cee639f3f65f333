"""Tables whose truth is known, which tests of verdicts judge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ablate.report.results import Outcome, Results
from ablate.report.verdicts.verdicts import FAILS, HOLDS, UNDECIDED, judge
from ablate.spaces.claims import Claim
from ablate.spaces.looks import Design

IMAGES = 400
ALPHA = 0.05


def claim(**statement: object) -> Claim:
    return Claim.model_validate({"says": "words", **statement})


ABOVE = claim(above={"row": "a", "rows": ["b"], "metrics": ["pgd20"]})


def simulated(
    rng: np.random.Generator,
    levels: Mapping[str, float],
    seeds: int = 3,
    noise: float = 0.08,
    shared: bool = False,
    correct: bool = True,
    images: int = IMAGES,
) -> Results:
    """Tables of trainings drawn from a population: a row's level, each training's luck, each image's difficulty.

    An image is right where level + luck + row's own view of the image + difficulty + chance > 0, all normal. Rows with
    equal levels have equal accuracy in the population, though not on these seeds and images.
    """
    difficulty = rng.normal(0, 1, images)
    common_luck, common_chance = rng.normal(0, noise, seeds), rng.normal(0, 0.5, (seeds, images))
    outcomes = {}
    for row, level in levels.items():
        view = rng.normal(0, 0.3, images)
        for seed in range(seeds):
            luck = common_luck[seed] if shared else rng.normal(0, noise)
            chance = common_chance[seed] if shared else rng.normal(0, 0.5, images)
            right = level + luck + view + difficulty + chance > 0
            key = f"training {seed}" if shared else f"{row} {seed}"
            arrays = {"pgd20": right} if correct else {}
            outcomes[row, seed] = Outcome(key, {"pgd20": 100.0 * right.mean()}, arrays, "test", images)
    return Results(outcomes)


def fixed(seeds: int) -> Design:
    """One look."""
    return Design(looks=(seeds,))


def rates(made: Claim, levels: Mapping[str, float], times: int = 250, seed: int = 0, **how: object) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    design = fixed(int(how.get("seeds", 3)))  # type: ignore[call-overload]
    verdicts = [
        judge(made, simulated(rng, levels, **how), design=design).verdict  # type: ignore[arg-type]
        for _ in range(times)
    ]
    return {verdict: verdicts.count(verdict) / times for verdict in (HOLDS, FAILS, UNDECIDED)}


def scalars(rows: Mapping[str, Sequence[float]], metric: str = "energy/ratio") -> Results:
    return Results(
        {(row, s): Outcome(f"{row} {s}", {metric: v}) for row, values in rows.items() for s, v in enumerate(values)}
    )


def slack(times: int, rate: float = ALPHA) -> float:
    return rate + 3.0 * math.sqrt(rate * (1 - rate) / times)


def scalars_as_accuracy(rows: Mapping[str, Sequence[float]], images: int | None = None) -> Results:
    return Results(
        {
            (row, s): Outcome(f"{row} {s}", {"pgd20": v}, images=images)
            for row, values in rows.items()
            for s, v in enumerate(values)
        }
    )
