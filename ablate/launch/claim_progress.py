"""How far the claims of a plan have come, from storage alone: which looks are taken, and which trainings come next."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ablate.core.text import aside
from ablate.launch.costs import Costs, hours_text
from ablate.planning.plan import Plan, PlannedTrial
from ablate.planning.plan_file import plan_file_of
from ablate.report.from_storage import results_of
from ablate.report.results import Results, Trial
from ablate.report.verdicts.contrasts import Contrast, contrasts
from ablate.report.verdicts.decisions import levels
from ablate.report.verdicts.futility import NextLook, Prospect, chances, prospect
from ablate.report.verdicts.looks import Walk, needs, walk
from ablate.spaces.claims import Claim, Trend
from ablate.spaces.looks import Design
from ablate.spaces.space import SpaceFile
from ablate.storage.plans import PlanFile
from ablate.storage.storage import Storage

Fate = Literal["decided", "goes on", "hopeless", "failed", "last look", "budget"]
Place = tuple[str, str, int]
"""Space, row and seed."""


@dataclass(frozen=True)
class Question:
    """One claim of a space, and what it asks for.

    Attributes:
        space: Its name.
        claim: As the space has it.
        asked: Its comparisons.
        design: Of the space.
    """

    space: str
    claim: Claim
    asked: list[Contrast]
    design: Design

    def places(self, rows: Iterable[str], count: int) -> list[Place]:
        """The trials of some rows at a look, seed by seed."""
        return [(self.space, row, seed) for seed in self.design.first(count) for row in rows]

    @property
    def first(self) -> list[Place]:
        """The trials of its first look."""
        return self.places(needs(self.asked), self.design.looks[0])


@dataclass(frozen=True)
class Stand:
    """How far a claim has come.

    Attributes:
        question: Which.
        walk: Its looks.
        fate: What becomes of it.
        places: Of the trials that its next look wants; empty where there is none.
        hours: What these will take yet.
        prospect: Of what the looks within the budget decide; None where it is not open.
    """

    question: Question
    walk: Walk
    fate: Fate = "decided"
    places: tuple[Place, ...] = ()
    hours: float = 0.0
    prospect: Prospect | None = None

    @property
    def seeds(self) -> int:
        """Of the last look taken; 0 before the first."""
        return self.walk.taken[-1].seeds if self.walk.taken else 0

    @property
    def rows(self) -> list[str]:
        """Those of the comparisons that are open."""
        return list(needs(self.walk.open(self.question.asked)))

    @property
    def verdict(self) -> str:
        """In words."""
        return {1: "holds", -1: "fails", 0: "not enough evidence"}[int(self.walk.standing.claim)]

    def sentence(self, unit: str) -> str:
        """What has come of it, in a line."""
        return f"“{self.question.claim.says}”: {self._sentence(unit)}"

    def _sentence(self, unit: str) -> str:
        waiting = self.walk.waiting
        at = waiting.seeds if waiting is not None else 0
        more = f"the look at {at} seeds would take about {hours_text(self.hours, unit)} more"
        open_at = f"open at {self.seeds} seeds; " if self.seeds else ""
        chance = f"{math.floor(100 * self.prospect.chance)} %" if self.prospect is not None else ""
        match self.fate:
            case "decided":
                return f"{self.verdict}, decided at {self.seeds} seeds"
            case "hopeless":
                return f"given up at {self.seeds} seeds, the looks left would decide it with {chance}; {more}"
            case "failed":
                return f"not enough evidence: {waiting.failed if waiting else ''}"
            case "last look":
                return f"not enough evidence at {self.seeds} seeds, the last look"
            case "budget":
                return f"{open_at}the budget does not reach the next look; {more}"
            case _:
                return f"{open_at}{more}"

    def reason(self, row: str) -> tuple[int, str]:
        """Why a row gets no more seeds, with a number by which one of several claims is told."""
        sides = [
            int(look)
            for contrast, side, look in zip(
                self.question.asked, self.walk.standing.sides, self.walk.standing.look, strict=True
            )
            if row in contrast.weights and side != 0
        ]
        over = self.fate == "decided" or row not in self.rows
        if over:
            at = self.question.design.looks[max(sides)] if sides and self.fate != "decided" else self.seeds
            return 0, f"not needed (decided at {at} seeds)"
        waiting = self.walk.waiting
        match self.fate:
            case "last look":
                return 1, f"not needed (the last look is at {self.seeds} seeds)"
            case "hopeless":
                return 2, f"not needed (given up at {self.seeds} seeds)"
            case "failed":
                failed = waiting.failed if waiting is not None else None
                return 3, f"not needed {aside(failed or '')}"
            case "budget":
                return 4, f"left out (the budget does not reach the look at {waiting.seeds if waiting else 0} seeds)"
            case _:
                return 5, f"not needed yet (the look at {waiting.seeds if waiting else 0} seeds comes first)"


def questions_of(spaces: Iterable[SpaceFile]) -> list[Question]:
    """The claims of some spaces that can be decided, in their order."""
    found = []
    for loaded in spaces:
        labels = [row.label for row in loaded.space.rows]
        for claim in loaded.space.claims:
            if asked := contrasts(claim, labels):
                found.append(Question(loaded.name, claim, asked, loaded.space.design))
    return found


class Courses:
    """The claims of a plan from look to look.

    Args:
        whole: The rows of all claims with as many seeds as there may be.
        storage: The truth.
        costs: Of its trainings.
        until: The largest number of seeds.
        budget: Hours; None: as many as it takes.
    """

    def __init__(self, whole: Plan, storage: Storage, costs: Costs, until: int, budget: float | None) -> None:
        self._storage, self.costs, self._until, self._budget = storage, costs, until, budget
        self.questions = questions_of(whole.spaces)
        self.planned: dict[Place, PlannedTrial] = {_place(each): each for each in whole.trials}
        file = plan_file_of(whole, {})
        self._files: dict[str, PlanFile] = {space.name: file.of_space(space.name) for space in file.spaces}
        self._parts = dict(zip(self.planned, file.trials, strict=True))
        self._whole: dict[Place, Trial] = {}
        self._seen: dict[Place, Trial] = {}
        self._chances: dict[tuple[int, int], list[float]] = {}
        self.stands: list[Stand] = []
        self._turns: list[int] = []
        self.spent = 0.0

    @property
    def left(self) -> float:
        """Hours of the budget; infinite without one."""
        return math.inf if self._budget is None else self._budget - self.spent

    def look(self, since_ms: int, again: Iterable[str] = ()) -> None:
        """Take every look that storage has the seeds for, and see which come next.

        Args:
            since_ms: When the plan was launched first: what was spent before is not its own.
            again: Failed trainings that will be tried again.
        """
        self._seen = {}
        again = set(again)
        walks: list[Walk] = []
        wanted = {place for each in self.questions for place in each.first}
        while not wanted <= self._seen.keys():
            self._read(wanted - self._seen.keys(), again)
            walks = [self._walk(each) for each in self.questions]
            for each, taken in zip(self.questions, walks, strict=True):
                wanted |= set(self._next(each, taken))
        self.costs.look({self.planned[place].training for place in self._seen})
        self.spent = self.costs.spent(since_ms)
        self.stands = self._shared([self._stand(number, taken) for number, taken in enumerate(walks)])

    def _read(self, places: set[Place], again: set[str]) -> None:
        for name, file in self._files.items():
            here = [place for place in self.planned if place in places and place[0] == name]
            self._seen |= {place: self._whole[place] for place in here if self._there(place)}
            unread = [place for place in here if not self._there(place)]
            if not unread:
                continue
            part = file.model_copy(update={"trials": [self._parts[place] for place in unread]})
            found = results_of(part, self._storage)
            for (row, seed), trial in found.trials.items():
                retried = trial.state == "failed" and trial.part.training in again
                if trial.problem is None or (trial.gap is not None and not retried):
                    trial = dataclasses.replace(trial, correct=functools.cache(trial.correct))  # several looks read it
                    self._whole[name, row, seed] = trial
                elif retried:
                    trial = dataclasses.replace(trial, problem="to be tried again", state="training")
                self._seen[name, row, seed] = trial

    def _walk(self, question: Question) -> Walk:
        trials = {(row, seed): trial for (space, row, seed), trial in self._seen.items() if space == question.space}
        results = Results.of_plan(self._files[question.space], trials)
        statement = question.claim.statement
        results = results.with_trends(statement.metrics) if isinstance(statement, Trend) else results
        return walk(question.asked, results, question.design)

    def _next(self, question: Question, taken: Walk) -> list[Place]:
        """The trials of the look that a claim waits for, where there may be one."""
        waiting = taken.waiting
        if waiting is None or waiting.failed or waiting.seeds > self._until:
            return []
        return question.places(needs(taken.open(question.asked)), waiting.seeds)

    def _stand(self, number: int, taken: Walk) -> Stand:
        question = self.questions[number]
        if taken.standing.claim != 0:
            return Stand(question, taken)
        waiting = taken.waiting
        if waiting is None or waiting.seeds > self._until:
            return Stand(question, taken, "last look")
        if waiting.failed:
            return Stand(question, taken, "failed")
        rows = needs(taken.open(question.asked))
        looks = [n for n in question.design.looks if waiting.seeds <= n <= self._until]
        hours = [self.hours(question.places(rows, n)) for n in looks]
        likely = self._likely(number, question, taken, looks)
        within = prospect(likely, hours, self.left)
        fate: Fate = "goes on"
        if within.hopeless:
            fate = "hopeless" if prospect(likely, hours, math.inf).hopeless else "budget"
        return Stand(question, taken, fate, tuple(question.places(rows, waiting.seeds)), hours[0], within)

    def _likely(self, number: int, question: Question, taken: Walk, looks: list[int]) -> list[float]:
        if not taken.taken:  # nothing is known of it yet
            return [1.0] * len(looks)
        last = taken.taken[-1]
        if (number, last.seeds) not in self._chances:
            every = question.design.looks
            share = dict(zip(every, levels(every), strict=True))
            left = [NextLook(every.index(n), n - last.seeds, share[n]) for n in looks]
            assert last.table is not None
            found = chances(question.asked, last.table, taken.standing, left)
            self._chances[number, last.seeds] = [float(each) for each in found]
        return self._chances[number, last.seeds]

    def _shared(self, stands: list[Stand]) -> list[Stand]:
        """Share the budget: what has begun comes first, then what probably decides most for its hours."""
        left, given = self.left, set[str]()

        def turn(number: int) -> tuple[bool, float, int]:
            within = stands[number].prospect
            begun = any(self._seen[place].state == "training" for place in stands[number].places)
            return not begun, -(within.value if within is not None else 0.0), number

        self._turns = sorted((n for n, each in enumerate(stands) if each.fate == "goes on"), key=turn)
        for number in self._turns:
            keys = self._keys(stands[number].places) - given
            hours = sum(map(self.costs.left, keys))
            if left <= 0.0 or (turn(number)[0] and hours > left):
                stands[number] = dataclasses.replace(stands[number], fate="budget")
                continue
            left -= hours
            given |= keys
        return stands

    def _keys(self, places: Iterable[Place]) -> set[str]:
        return {self.planned[place].training for place in places if not self._there(place)}

    def _there(self, place: Place) -> bool:
        return place in self._whole

    def hours(self, places: Iterable[Place]) -> float:
        """What some trials will take yet."""
        return sum(map(self.costs.left, self._keys(places)))

    def in_play(self) -> set[Place]:
        """The trials that looks were taken on, those that the next ones want, and what there is beside them."""
        found: set[Place] = set()
        for each in self.stands:
            for look in each.walk.taken:
                found |= set(each.question.places(look.table or {}, look.seeds))
            waiting = each.walk.waiting
            if each.fate == "goes on":
                found |= set(each.places)
            elif waiting is not None:
                beside = each.question.places(each.rows, waiting.seeds)
                ended = ("finished", "failed")
                found |= {place for place in beside if place in self._seen and self._seen[place].state in ended}
        return found

    def wanted(self) -> Iterator[str]:
        """The trainings that come next: by the claims' turns where hours are counted, else in the claims' order."""
        for number in self._turns if self._budget is not None else range(len(self.stands)):
            each = self.stands[number]
            if each.fate == "goes on":
                yield from (self.planned[place].training for place in each.places if not self._there(place))

    def not_needed(self, rows: Mapping[str, Iterable[str]]) -> dict[str, dict[str, str]]:
        """Space -> row -> why it gets no more seeds."""
        found: dict[str, dict[str, str]] = {}
        for space, labels in rows.items():
            for row in labels:
                stands = [e for e in self.stands if e.question.space == space and row in needs(e.question.asked)]
                told = max((each.reason(row) for each in stands), default=(0, "not needed (no claim is about it)"))
                found.setdefault(space, {})[row] = told[1]
        return found


def _place(planned: PlannedTrial) -> Place:
    return planned.trial.space, planned.trial.label, planned.trial.seed
