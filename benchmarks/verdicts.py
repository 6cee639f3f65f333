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
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ablate.report.results import PAPER_BASELINES, PAPER_TEST_IMAGES, TREND, Outcome, Results  # noqa: E402
from ablate.report.verdicts.contrasts import Contrast, contrasts  # noqa: E402
from ablate.report.verdicts.decisions import Standing, levels  # noqa: E402
from ablate.report.verdicts.futility import NextLook, chances, prospect  # noqa: E402
from ablate.report.verdicts.looks import needs, walk  # noqa: E402
from ablate.spaces import SpaceFile, load_space, space_names  # noqa: E402
from ablate.spaces.claims import Claim  # noqa: E402
from ablate.spaces.looks import DEFAULT_LOOKS, Design  # noqa: E402

SEED = 20_240_501
SCALAR, OTHER, ACCURACY = "made/one", "made/other", "pgd20"
IMAGES = 200
EFFECT = 4.0
"""Of the tables that power is of, in standard deviations between trainings."""

_FIXED = 13
"""Seeds of every row, which `--until-decided` is compared with."""

_FUTURES = 400
_CHUNK = {False: 20_000, True: 500}
_EPOCHS = 120
_LUCK = 0.04
"""Of one training: how far it shifts the threshold by which images are right."""


@dataclass(frozen=True)
class Kind:
    """One kind of table.

    Attributes:
        name: As printed.
        statement: Of the claim, but for its metrics.
        rows: Labels.
        edge: The row's offset at which the claim is at its edge, for each row.
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
        view = 0.3 * rng.standard_normal((tables, IMAGES), np.float32)
        noise = ratio if row == kind.rows[0] else 1.0
        for seed in range((kind.seeds or {}).get(row, count)):
            if kind.shared:
                # What rows of one training share cancels; what is left is each row's own.
                luck = 5.0 * common[seed] + noise * rng.standard_normal(tables)
            else:
                luck = noise * rng.standard_normal(tables)
            key = f"training {seed}" if kind.shared else f"{row} {seed}"
            if images:
                # Half of the images are right in the population, whatever the noise.
                threshold = _LUCK * (offsets.get(row, 0.0) + luck)[:, None].astype(np.float32)
                chance = chances[seed] if chances is not None else rng.standard_normal((tables, IMAGES), np.float32)
                right = threshold + view + difficulty + 0.5 * chance > 0
                found[row, seed] = Outcome(key, {ACCURACY: 100.0 * right.mean(1)}, {ACCURACY: right}, "made", IMAGES)
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
    wrong, right = 0, np.zeros(len(kind.looks), np.int64)
    power_tables = max(tables // 4, min(tables, 1000))
    for size in _sizes(tables, chunk):
        holds, fails = by_look(kind, decided(kind, outcomes(rng, kind, ratio, kind.edge, size)))
        wrong += int(holds[-1] + fails[-1])
    sure = {row: kind.edge.get(row, 0.0) + kind.effect.get(row, 0.0) for row in kind.rows}
    for size in _sizes(power_tables, chunk):
        holds, fails = by_look(kind, decided(kind, outcomes(rng, kind, ratio, sure, size)))
        right += holds if kind.holds else fails
    return Rates(kind, ratio, tables, wrong, tuple(right / power_tables))


def _sizes(total: int, chunk: int) -> Iterator[int]:
    for start in range(0, total, chunk):
        yield min(chunk, total - start)


@dataclass(frozen=True)
class Step:
    """A look at a claim of one table.

    Attributes:
        seeds: It is at.
        rows: That it needs.
        likely: That looks after it decide the claim, by each of them; empty where it is decided, or none is left.
        decided: Whether it is.
    """

    seeds: int
    rows: tuple[str, ...]
    likely: tuple[float, ...]
    decided: bool


@dataclass(frozen=True)
class Published:
    """One published claim.

    Attributes:
        space: Of the claim.
        table: The paper's.
        says: Its words.
        rows: That it is about.
        steps: Of each simulated table, its looks as far as they may go.
        fixed: The share that the same looks decide of 13 seeds.
        one: The share that a fixed design of 13 seeds decides.
    """

    space: str
    table: int | None
    says: str
    rows: tuple[str, ...]
    steps: Sequence[Sequence[Step]]
    fixed: float
    one: float


def published(loaded: SpaceFile, tables: int, images: int | None, seed: int = SEED) -> list[Published]:
    """Simulate the published effects of a space with the noise of the paper's three baselines.

    Args:
        loaded: The space.
        tables: How many.
        images: Test images behind each number, whose binomial error counts; None: no test-set error.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng([seed, loaded.space.table or 0])
    labels = [row.label for row in loaded.space.rows]
    columns = list(PAPER_BASELINES[0])
    noise = np.array([[each[column] for column in columns] for each in PAPER_BASELINES])
    noise = (noise - noise.mean(0)) / np.sqrt(len(noise) - 1)
    made: dict[tuple[str, int], Outcome] = {}
    for row in loaded.space.rows:
        for number in range(DEFAULT_LOOKS[-1] if row.published else 0):
            luck = np.einsum("ic,it->ct", noise, rng.standard_normal((len(noise), tables)))
            values = {m: mean + luck[columns.index(m)] for m, mean in row.published.items() if m in columns}
            made[row.label, number] = Outcome(f"{row.label} {number}", values, images=images)
    whole = Results({place: each for place, each in made.items() if place[1] < _FIXED})
    found = []
    for claim in loaded.space.claims:
        asked = contrasts(claim, labels)
        if not all((row, 0) in made and set(m) <= made[row, 0].values.keys() for row, m in needs(asked).items()):
            continue
        fixed, one = (
            float((walk(asked, whole, design).standing.claim != 0).mean())
            for design in (Design(), Design(looks=(_FIXED,)))
        )
        steps = [_steps(asked, made, at) for at in range(tables)]
        found.append(Published(loaded.name, loaded.space.table, claim.says, tuple(needs(asked)), steps, fixed, one))
    return found


def _steps(asked: list[Contrast], made: Mapping[tuple[str, int], Outcome], at: int) -> list[Step]:
    """The looks at a claim in one of the tables, as a launch has it."""
    wanted = needs(asked)
    table = {
        (row, seed): dataclasses.replace(each, values={m: float(each.values[m][at]) for m in wanted[row]})
        for (row, seed), each in made.items()
        if row in wanted
    }
    steps: list[Step] = []
    for number, count in enumerate(DEFAULT_LOOKS):
        so_far = walk(asked, Results({place: each for place, each in table.items() if place[1] < count}), Design())
        last = so_far.taken[-1].table
        assert last is not None
        over = bool(so_far.standing.claim != 0)
        left = [] if over else futures(DEFAULT_LOOKS, number)
        likely = chances(asked, last, so_far.standing, left, _FUTURES) if left else []
        steps.append(Step(count, tuple(last), tuple(map(float, likely)), over))
        if over or prospect([*map(float, likely)], [1.0] * len(left), np.inf).hopeless:
            break
    return steps


@dataclass(frozen=True)
class Launched:
    """What a launch until decided makes of some claims in one table.

    Attributes:
        decided: Of each claim.
        seeds: Of each row.
    """

    decided: Sequence[bool]
    seeds: Mapping[tuple[str, str], int]


def launched(claims: Sequence[Published], at: int, most: int = DEFAULT_LOOKS[-1], budget: float = np.inf) -> Launched:
    """Launch claims until they are decided, look by look, as `ablate.launch.deciding` goes on.

    Args:
        claims: That share rows where they are of one space.
        at: In which table.
        most: Seeds of a row.
        budget: In trainings.
    """
    looks = [count for count in DEFAULT_LOOKS if count <= most]
    taken = [0] * len(claims)
    seeds = dict.fromkeys(((each.space, row) for each in claims for row in each.rows), 0)

    def cost(claim: Published, rows: Sequence[str], count: int) -> float:
        return float(sum(max(0, count - seeds[claim.space, row]) for row in rows))

    while True:
        left = budget - sum(seeds.values())
        turns = []
        for number, claim in enumerate(claims):
            steps = claim.steps[at]
            last = steps[taken[number] - 1] if taken[number] else None
            if taken[number] == len(looks) or (last is not None and (last.decided or taken[number] == len(steps))):
                continue
            ahead = looks[taken[number] :]
            likely = last.likely[: len(ahead)] if last is not None else [1.0] * len(ahead)
            rows = steps[taken[number]].rows
            within = prospect(likely, [cost(claim, rows, count) for count in ahead], left)
            if not within.hopeless and cost(claim, rows, ahead[0]) <= left:
                turns.append((-within.value, number, rows, ahead[0]))
        if not turns:
            break
        _, number, rows, count = min(turns)
        for row in rows:
            seeds[claims[number].space, row] = max(seeds[claims[number].space, row], count)
        taken[number] += 1
    return Launched([n > 0 and each.steps[at][n - 1].decided for each, n in zip(claims, taken, strict=True)], seeds)


def foreknown(claims: Sequence[Published], at: int, most: int) -> Launched:
    """What whoever knew beforehand which claims come to a decision would spend: the others get the first look alone."""
    ends = [[step for step in claim.steps[at] if step.seeds <= most] for claim in claims]
    seeds = dict.fromkeys(((each.space, row) for each in claims for row in each.rows), DEFAULT_LOOKS[0])
    for claim, steps in zip(claims, ends, strict=True):
        for step in steps if steps[-1].decided else ():
            for row in step.rows:
                seeds[claim.space, row] = max(seeds[claim.space, row], step.seeds)
    return Launched([steps[-1].decided for steps in ends], seeds)


def print_spending(tables: int, seed: int) -> None:
    """Print what `--until-decided` spends on the published effects of Tables 1 to 5."""
    for images in (None, PAPER_TEST_IMAGES):
        error = "no test-set error" if images is None else f"the binomial error of {images:,} images"
        print(f"\nPublished effects, {tables} tables of each claim, {error}:\n")
        print(
            "| table | claim | until decided, % | 13 seeds, % | 13 seeds in one look, % | seeds a row until decided |"
        )
        print("|---|---|---|---|---|---|")
        found = [each for loaded in tables_of_paper() for each in published(loaded, tables, images, seed)]
        for each in found:
            alone = [launched([each], at) for at in range(tables)]
            until = np.mean([one.decided[0] for one in alone])
            row_seeds = np.mean([list(one.seeds.values()) for one in alone])
            shares = f"{100 * until:.0f} | {100 * each.fixed:.0f} | {100 * each.one:.0f}"
            print(f"| {each.table} | {each.says[:60]} | {shares} | {row_seeds:.1f} |", flush=True)
        fixed, one_look = (100 * np.mean([getattr(each, name) for each in found]) for name in ("fixed", "one"))
        print(f"\ndecided by 13 seeds of every row: {fixed:.1f} %, by one look at 13: {one_look:.1f} %")
        by_space = [[each for each in found if each.space == space] for space in dict.fromkeys(e.space for e in found)]
        rows = len({(each.space, row) for each in found for row in each.rows})
        ends = {
            "each claim launched by itself": [launched([each], at) for each in found for at in range(tables)],
            "tables launched whole": [launched(group, at) for group in by_space for at in range(tables)],
            f"tables launched whole, at most {_FIXED} seeds": [
                launched(group, at, _FIXED) for group in by_space for at in range(tables)
            ],
            "all of them within six tenths of the trainings of 13 seeds": [
                launched(found, at, budget=0.6 * _FIXED * rows) for at in range(tables)
            ],
            "all of them within half of them": [
                launched(found, at, budget=0.5 * _FIXED * rows) for at in range(tables)
            ],
            f"by whoever knew which would be decided by {_FIXED} seeds": [
                foreknown(found, at, _FIXED) for at in range(tables)
            ],
        }
        for words, each_end in ends.items():
            decided = 100 * np.mean([each for end in each_end for each in end.decided])
            spent = sum(sum(end.seeds.values()) for end in each_end)
            whole = _FIXED * sum(len(end.seeds) for end in each_end)
            print(f"{words}: {decided:.1f} % decided with {100 * spent / whole:.0f} % of the trainings of 13 seeds")


def tables_of_paper() -> list[SpaceFile]:
    """The shipped spaces with claims about a table of the paper."""
    found = [load_space(name) for name in space_names()]
    return sorted((each for each in found if each.space.table and each.space.claims), key=lambda e: e.space.table or 0)


def futures(looks: Sequence[int], number: int) -> list[NextLook]:
    """The looks that are left after one."""
    share = levels(looks)
    return [NextLook(later, looks[later] - looks[number], share[later]) for later in range(number + 1, len(looks))]


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
