"""What `--until-decided` spends on the published effects of Tables 1 to 5, against 13 seeds of every row.

    python benchmarks/verdicts.py --spending 50

The tables are simulated; the looks at them are those of a report, and a launch's turns are those of
`ablate.launch.claim_progress`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ablate.report.results import PAPER_BASELINES, PAPER_TEST_IMAGES, Outcome, Results
from ablate.report.verdicts.contrasts import Contrast, contrasts
from ablate.report.verdicts.decisions import levels
from ablate.report.verdicts.futility import NextLook, chances, prospect
from ablate.report.verdicts.looks import needs, walk
from ablate.spaces import SpaceFile, load_space, space_names
from ablate.spaces.looks import DEFAULT_LOOKS, Design

_FIXED = 13
"""Seeds of every row, which `--until-decided` is compared with."""

_FUTURES = 400

_BUDGETS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Of the trainings of 13 seeds of every row."""

Order = Literal["value", "shared", "space", "seeds"]
"""Which claim's trainings come next within a budget.

`value`: what decides most probably for its cost, as `ablate.launch.claim_progress` has it. `shared`: the budget is
shared in that order, and among what it pays for trainings come in the spaces' order. `space`: the spaces' order alone,
each claim as far as it goes. `seeds`: all claims' first looks in the spaces' order, then all second ones.
"""


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


def published(loaded: SpaceFile, tables: int, images: int | None, seed: int) -> list[Published]:
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


def launched(
    claims: Sequence[Published],
    at: int,
    most: int = DEFAULT_LOOKS[-1],
    budget: float = np.inf,
    order: Order = "value",
) -> Launched:
    """Launch claims until they are decided, look by look, as `ablate.launch.claim_progress` goes on.

    Args:
        claims: That share rows where they are of one space.
        at: In which table.
        most: Seeds of a row.
        budget: In trainings.
        order: Of them.
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
        number, rows, count = _next(turns, order, lambda turn: cost(claims[turn[1]], turn[2], turn[3]), left)
        for row in rows:
            seeds[claims[number].space, row] = max(seeds[claims[number].space, row], count)
        taken[number] += 1
    return Launched([n > 0 and each.steps[at][n - 1].decided for each, n in zip(claims, taken, strict=True)], seeds)


_Turn = tuple[float, int, Sequence[str], int]
"""What a claim's next look is worth (the less, the more), which claim, its rows and seeds."""


def _next(
    turns: Sequence[_Turn], order: Order, cost: Callable[[_Turn], float], left: float
) -> tuple[int, Sequence[str], int]:
    by_order: dict[Order, Callable[[_Turn], tuple[float, ...]]] = {
        "value": lambda turn: turn[:2],
        "shared": lambda turn: turn[1:2],
        "space": lambda turn: turn[1:2],
        "seeds": lambda turn: (turn[3], turn[1]),
    }
    if order == "shared":
        paid: list[_Turn] = []
        for turn in sorted(turns, key=by_order["value"]):
            if cost(turn) <= left:
                left -= cost(turn)
                paid.append(turn)
        turns = paid
    return min(turns, key=by_order[order])[1:]


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
            f"by whoever knew which would be decided by {_FIXED} seeds": [
                foreknown(found, at, _FIXED) for at in range(tables)
            ],
        }
        for words, each_end in ends.items():
            decided = 100 * np.mean([each for end in each_end for each in end.decided])
            spent = sum(sum(end.seeds.values()) for end in each_end)
            whole = _FIXED * sum(len(end.seeds) for end in each_end)
            print(f"{words}: {decided:.1f} % decided with {100 * spent / whole:.0f} % of the trainings of 13 seeds")
        orders = get_args(Order)
        print(
            "\nAll tables within a budget: decided, %, with trainings, % of 13 seeds, by the order of the trainings:\n"
        )
        print(f"| budget, % | {' | '.join(orders)} |\n|---|{'---|' * len(orders)}")
        for budget in _BUDGETS:
            cells = []
            for order in orders:
                each_end = [launched(found, at, budget=budget * _FIXED * rows, order=order) for at in range(tables)]
                decided = 100 * np.mean([each for end in each_end for each in end.decided])
                spent = np.mean([sum(end.seeds.values()) for end in each_end])
                cells.append(f"{decided:.1f} with {100 * spent / (_FIXED * rows):.0f}")
            print(f"| {100 * budget:.0f} | {' | '.join(cells)} |", flush=True)


def tables_of_paper() -> list[SpaceFile]:
    """The shipped spaces with claims about a table of the paper."""
    found = [load_space(name) for name in space_names()]
    return sorted((each for each in found if each.space.table and each.space.claims), key=lambda e: e.space.table or 0)


def futures(looks: Sequence[int], number: int) -> list[NextLook]:
    """The looks that are left after one."""
    share = levels(looks)
    return [NextLook(later, looks[later] - looks[number], share[later]) for later in range(number + 1, len(looks))]
