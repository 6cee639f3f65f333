"""How often verdicts are wrong, and how soon they decide: tables whose truth is known, judged by the report's own code.

    python benchmarks/verdicts.py                     # 20,000 tables of each kind: some minutes on one core
    python benchmarks/verdicts.py --tables 2000 --only above
    python benchmarks/verdicts.py --spending 200      # seeds of --until-decided against 13 fixed ones, Tables 1 to 5

Every number of a simulated table is an array over many tables, so that the very functions that a report calls judge
thousands of them at once. *Error*: a claim at the edge of being true (rows that are equal; a difference exactly at its
margin) is decided either way at any look. *Power*: of an effect of four times the noise of the quietest row, how many
are decided rightly by each look. `docs/verdicts.md` explains the method.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ablate.report.results import TREND, Outcome, Results  # noqa: E402
from ablate.report.verdicts.contrasts import contrasts  # noqa: E402
from ablate.report.verdicts.decisions import Standing  # noqa: E402
from ablate.report.verdicts.looks import walk  # noqa: E402
from ablate.spaces.claims import Claim  # noqa: E402
from ablate.spaces.looks import DEFAULT_LOOKS, Design  # noqa: E402
from benchmarks.spending import print_spending  # noqa: E402

SEED = 20_240_501
SCALAR, OTHER = "made/one", "made/other"
ACCURACY, OTHER_ACCURACY = "pgd20", "clean"
IMAGES = 200
EFFECT = 4.0
"""Of the tables that power is of, in standard deviations between trainings."""

_CHUNK = {False: 20_000, True: 500}
_EPOCHS = 120
_LUCK = 0.04
"""Of one training: how far it shifts the threshold by which images are right."""
_VIEW, _CHANCE = 0.3, 0.5
"""How far rows disagree about an image, and how far trainings of one row do; how hard it is has 1."""


@dataclass(frozen=True)
class Kind:
    """One kind of table.

    Attributes:
        name: As printed.
        statement: Of the claim, but for its metrics.
        rows: Labels.
        edge: The row's offset at which the claim is at its edge, for each row; of accuracies, in points.
        effect: What is added to a row where the claim is true or false without doubt, in noises, for each row.
        holds: Whether it is then true.
        metric: What is measured.
        ratios: The first row's noise, in the others'.
        seeds: Seeds of each row; none: as many as the last look has.
        shared: Whether rows share their trainings.
        looks: Numbers of seeds.
    """

    name: str
    statement: Mapping[str, Mapping[str, object]]
    rows: Sequence[str]
    edge: Mapping[str, float]
    effect: Mapping[str, float]
    holds: bool = True
    metric: str = SCALAR
    ratios: Sequence[float] = (1.0, 5.0, 10.0)
    seeds: Mapping[str, int] | None = None
    shared: bool = False
    looks: tuple[int, ...] = DEFAULT_LOOKS

    @property
    def claim(self) -> Claim:
        """The claim about it."""
        [(key, content)] = self.statement.items()
        metric = self.metric.removeprefix(TREND)
        return Claim.model_validate({"says": self.name, key: {**content, "metrics": [metric]}})

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured: a gain is of two metrics."""
        [content] = self.statement.values()
        return (self.metric, str(content["than"])) if "than" in content else (self.metric,)

    def noise(self, row: str, ratio: float) -> float:
        """Of a row, in the others'."""
        return ratio if row == self.rows[0] else 1.0

    def at_edge(self, ratio: float) -> Mapping[str, float]:
        """Row -> its offset in noises at which the claim is at its edge.

        The expected accuracy at a threshold t is Phi(t / s), where s^2 is the sum of all that moves an image across it.

        Args:
            ratio: The first row's noise, in the others'.
        """
        if self.metric != ACCURACY:
            return self.edge
        spread = {
            row: math.sqrt(1.0 + _VIEW**2 + _CHANCE**2 + (_LUCK * self.noise(row, ratio)) ** 2) for row in self.edge
        }
        return {
            row: spread[row] * float(stats.norm.ppf(0.5 + points / 100.0)) / _LUCK for row, points in self.edge.items()
        }


def kinds() -> list[Kind]:
    """All kinds of tables."""
    two, five = "ab", "abcde"
    first, last = {"a": EFFECT}, {"e": EFFECT}
    steps = {row: EFFECT * step for step, row in enumerate(five)}
    four = dict(zip(("both", "one", "other", "neither"), "abcd", strict=True))
    above2 = {"above": {"row": "a", "rows": ["b"]}}
    above5 = {"above": {"row": "a", "rows": list("bcde")}}
    found = [
        Kind("above, 2 rows", above2, two, {}, first),
        Kind("above, 5 rows", above5, five, {}, first),
        Kind("above, 5 rows, three of them surely", above5, five, dict.fromkeys("bcd", -40.0), first),
        Kind("below, 5 rows", {"below": {"row": "e", "rows": list("abcd")}}, five, {}, last, holds=False),
        Kind("best, 5 rows", {"best": {"row": "a", "among": list(five)}}, five, {}, first),
        Kind("pairwise, 2 rows", {"pairwise": {"pairs": [["a", "b"]]}}, two, {}, first),
        Kind("pairwise, 2 pairs of 4 rows", {"pairwise": {"pairs": [["a", "b"], ["c", "d"]]}}, "abcd", {},
             {"a": EFFECT, "c": EFFECT}),
        Kind("ordering, 2 rows", {"ordering": {"rows": list("ab")}}, two, {}, {"b": EFFECT}),
        Kind("ordering, 5 rows", {"ordering": {"rows": list(five)}}, five, {}, steps),
        Kind("difference at least", {"difference": {"row": "a", "minus": "b", "at_least": 1.0}}, two, {"a": 1.0},
             first),
        Kind("equivalence within 4 noises", {"difference": {"row": "a", "minus": "b", "within": 4.0}}, two,
             {"a": 4.0}, {"a": -4.0}),
        Kind("gain, 2 rows", {"gain": {"rows": ["a"], "over": "b", "than": OTHER}}, two, {}, first),
        Kind("gain, 5 rows", {"gain": {"rows": list("bcde"), "over": "a", "than": OTHER}}, five, {},
             {"a": -EFFECT}),
        Kind("interaction, 4 rows", {"interaction": four}, "abcd", {}, first),
        Kind("interaction within 6 noises", {"interaction": {**four, "within": 6.0}}, "abcd", {"a": 6.0},
             {"a": -6.0}),
        Kind("value at least", {"value": {"row": "a", "at_least": 0.0}}, "a", {}, first, ratios=(1.0,)),
        Kind("value within", {"value": {"row": "a", "reference": 0.0, "within": 4.0}}, "a", {"a": 4.0},
             {"a": -4.0}, ratios=(1.0,)),
        Kind("trend", {"trend": {"row": "a"}}, "a", {}, first, metric=TREND + SCALAR, ratios=(1.0,)),
        Kind("above, 2 rows, shared trainings", above2, two, {}, first, shared=True),
        Kind("above, 5 rows, unequal seeds", above5, five, {}, first,
             seeds={"a": 8, "b": 21, "c": 13, "d": 10, "e": 21}),
        *(
            Kind(f"above, 2 rows, a fixed design of {n}", above2, two, {}, first, looks=(n,),
                 ratios=(1.0, 2.0, 5.0, 10.0))
            for n in (2, 3, 5, 8)
        ),
        Kind("above, 2 rows, 200 images", above2, two, {}, first, metric=ACCURACY),
        Kind("above, 2 rows, shared, 200 images", above2, two, {}, first, metric=ACCURACY, shared=True),
        Kind("ordering, 5 rows, 200 images", {"ordering": {"rows": list(five)}}, five, {}, steps, metric=ACCURACY),
        Kind("interaction, 4 rows, 200 images", {"interaction": four}, "abcd", {}, first, metric=ACCURACY),
        Kind("best, 5 rows, 200 images", {"best": {"row": "a", "among": list(five)}}, five, {}, first,
             metric=ACCURACY),
        Kind("value at least, 200 images", {"value": {"row": "a", "at_least": 50.0}}, "a", {}, first,
             metric=ACCURACY, ratios=(1.0,)),
        Kind("value within 15 points, 200 images", {"value": {"row": "a", "reference": 50.0, "within": 15.0}}, "a",
             {"a": 15.0}, {"a": -11.0}, metric=ACCURACY, ratios=(1.0,)),
        Kind("below, 5 rows, 200 images", {"below": {"row": "e", "rows": list("abcd")}}, five, {}, last, holds=False,
             metric=ACCURACY),
        Kind("pairwise, 2 rows, 200 images", {"pairwise": {"pairs": [["a", "b"]]}}, two, {}, first, metric=ACCURACY),
        Kind("pairwise, 2 pairs of 4 rows, 200 images", {"pairwise": {"pairs": [["a", "b"], ["c", "d"]]}}, "abcd", {},
             {"a": EFFECT, "c": EFFECT}, metric=ACCURACY),
        Kind("difference at least 1 point, 200 images", {"difference": {"row": "a", "minus": "b", "at_least": 1.0}},
             two, {"a": 1.0}, first, metric=ACCURACY),
        Kind("equivalence within 10 points, 200 images", {"difference": {"row": "a", "minus": "b", "within": 10.0}},
             two, {"a": 10.0}, {"a": -7.5}, metric=ACCURACY),
        Kind("interaction within 15 points, 200 images", {"interaction": {**four, "within": 15.0}}, "abcd",
             {"a": 15.0}, {"a": -11.0}, metric=ACCURACY),
        Kind("gain, 2 rows, 200 images", {"gain": {"rows": ["a"], "over": "b", "than": OTHER_ACCURACY}}, two, {}, first,
             metric=ACCURACY),
        Kind("gain, 5 rows, 200 images", {"gain": {"rows": list("bcde"), "over": "a", "than": OTHER_ACCURACY}}, five,
             {}, {"a": -EFFECT}, metric=ACCURACY),
        Kind("above, 5 rows, unequal seeds, 200 images", above5, five, {}, first, metric=ACCURACY,
             seeds={"a": 8, "b": 21, "c": 13, "d": 10, "e": 21}),
    ]  # fmt: skip
    return found


def outcomes(
    rng: np.random.Generator, kind: Kind, ratio: float, offsets: Mapping[str, float], tables: int
) -> dict[tuple[str, int], Outcome]:
    """Tables of a kind, drawn from a population: each number is an array over them.

    Args:
        rng: Random numbers.
        kind: Of tables.
        ratio: The first row's noise, in the others'.
        offsets: Row -> how far its mean is from the others', in the others' noise.
        tables: How many.

    Returns:
        (row, seed) -> numbers of that training.
    """
    count = kind.looks[-1]
    common = rng.standard_normal((count, tables))
    images = kind.metric == ACCURACY
    difficulty = rng.standard_normal((tables, IMAGES), np.float32)
    chances = rng.standard_normal((count, tables, IMAGES), np.float32) if images and kind.shared else None
    found = {}
    for row in kind.rows:
        views = [_VIEW * rng.standard_normal((tables, IMAGES), np.float32) for _ in kind.metrics]
        noise = kind.noise(row, ratio)
        for seed in range((kind.seeds or {}).get(row, count)):
            if kind.shared:
                # What rows of one training share cancels; what is left is each row's own.
                luck = 5.0 * common[seed] + noise * rng.standard_normal(tables)
            else:
                luck = noise * rng.standard_normal(tables)
            key = f"training {seed}" if kind.shared else f"{row} {seed}"
            if images:
                # Half of the images are right in the population without an offset, whatever the noise.
                shift = offsets.get(row, 0.0) + luck
                correct = {}
                # As of scalars, most of the luck of a gain's two metrics is the same.
                common_luck = 3.0 * rng.standard_normal(tables) if len(kind.metrics) > 1 else 0.0
                for metric, view in zip(kind.metrics, views, strict=True):
                    own = shift if metric == kind.metric else 0.0
                    threshold = np.reshape(_LUCK * (own + common_luck), (-1, 1)).astype(np.float32)
                    chance = chances[seed] if chances is not None else rng.standard_normal((tables, IMAGES), np.float32)
                    correct[metric] = threshold + view + difficulty + _CHANCE * chance > 0
                values = {metric: 100.0 * right.mean(1) for metric, right in correct.items()}
                found[row, seed] = Outcome(key, values, correct, "made", IMAGES)
            elif kind.metric.startswith(TREND):
                tau = np.clip(0.1 * (offsets.get(row, 0.0) + luck), -1.0, 1.0)
                found[row, seed] = Outcome(key, {kind.metric: tau}, curves={SCALAR: range(_EPOCHS)})
            else:
                # A gain is of two metrics of one training, whose luck is mostly the same.
                other = 3.0 * rng.standard_normal(tables)
                value = offsets.get(row, 0.0) + luck + other * (OTHER in str(kind.statement))
                found[row, seed] = Outcome(key, {kind.metric: value, OTHER: other})
    return found


def decided(kind: Kind, made: Mapping[tuple[str, int], Outcome]) -> Standing:
    """The report's own decisions on tables; `look` of the claim is the last look of its comparisons."""
    asked = contrasts(kind.claim, list(kind.rows))
    return walk(asked, Results(made), Design(looks=kind.looks)).standing


def by_look(kind: Kind, standing: Standing) -> tuple[np.ndarray, np.ndarray]:
    """(claims that hold, claims that fail) by each look, as counts."""
    looks = np.arange(len(kind.looks))[:, None, None]
    so_far = np.where((standing.look <= looks) & (standing.look >= 0), standing.sides, 0)
    fails = (so_far < 0).any(1)
    return ((so_far > 0).all(1) & ~fails).sum(-1), fails.sum(-1)


@dataclass(frozen=True)
class Rates:
    """What became of tables of one kind.

    Attributes:
        kind: Of them.
        ratio: The first row's noise, in the others'.
        tables: How many.
        wrong: Decided wrongly at any look.
        right: By each look, decided rightly where there is an effect.
    """

    kind: Kind
    ratio: float
    tables: int
    wrong: int
    right: Sequence[int]

    @property
    def error(self) -> float:
        """The share that was decided wrongly."""
        return self.wrong / self.tables

    @property
    def upper(self) -> float:
        """The upper end of its 95 % interval (Clopper and Pearson)."""
        return float(stats.beta.ppf(0.975, self.wrong + 1, self.tables - self.wrong))


def measure(kind: Kind, ratio: float, tables: int, seed: int = SEED) -> Rates:
    """Simulate tables of one kind, at the edge and with an effect.

    Args:
        kind: Of them.
        ratio: The first row's noise, in the others'.
        tables: How many of each.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng([seed, round(100 * ratio)])
    chunk = _CHUNK[kind.metric == ACCURACY]
    wrong, right, edge = 0, np.zeros(len(kind.looks), np.int64), kind.at_edge(ratio)
    power_tables = max(tables // 4, min(tables, 1000))
    for size in _sizes(tables, chunk):
        holds, fails = by_look(kind, decided(kind, outcomes(rng, kind, ratio, edge, size)))
        wrong += int(holds[-1] + fails[-1])
    sure = {row: edge.get(row, 0.0) + kind.effect.get(row, 0.0) for row in kind.rows}
    for size in _sizes(power_tables, chunk):
        holds, fails = by_look(kind, decided(kind, outcomes(rng, kind, ratio, sure, size)))
        right += holds if kind.holds else fails
    return Rates(kind, ratio, tables, wrong, tuple(right / power_tables))


def _sizes(total: int, chunk: int) -> Iterator[int]:
    for start in range(0, total, chunk):
        yield min(chunk, total - start)


def lines(rates: Rates) -> str:
    """One line of the table."""
    power = " ".join(f"{100 * share:.0f}" for share in rates.right)
    ratio = f"{rates.ratio:g}:1" if len(rates.kind.rows) > 1 else ""
    return f"| {rates.kind.name} | {ratio} | {100 * rates.error:.2f} | {100 * rates.upper:.2f} | {power} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument("--spending", type=int, metavar="TABLES", help="only the seeds that --until-decided spends")
    options = parser.parse_args()
    start = time.monotonic()
    if options.spending:
        print_spending(options.spending, options.seed)
        print(f"{time.monotonic() - start:.0f} s")
        return
    print(f"{options.tables:,} tables of each kind, seed {options.seed}, looks at {DEFAULT_LOOKS}\n")
    print("| statement | noise | error at any look, % | upper 95 % limit | decided by each look, % |")
    print("|---|---|---|---|---|")
    worst = None
    for kind in kinds():
        for ratio in kind.ratios if options.only in kind.name else ():
            rates = measure(kind, ratio, options.tables, options.seed)
            print(lines(rates), flush=True)
            worst = rates if worst is None or rates.error > worst.error else worst
    if worst is not None:
        print(f"\nworst: {worst.kind.name}, {100 * worst.error:.2f} %; {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
