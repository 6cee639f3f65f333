"""A launch that goes on until claims are decided: the rows of tables, where each look tells what is trained next."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.text import Text

from ablate.core.digest import digest
from ablate.core.errors import StorageError, UserError
from ablate.core.text import now_ms, plural, printable
from ablate.execution.base import Resources
from ablate.launch.claim_progress import Courses
from ablate.launch.costs import Costs, hours_text
from ablate.launch.options import Options
from ablate.launch.power import PowerAnalysis, analyse_power
from ablate.launch.registration import content_of
from ablate.launch.sources import Rows, Session, resources_of
from ablate.planning.estimates import Estimate
from ablate.planning.plan import Plan, PlannedTraining, decide
from ablate.storage import plans
from ablate.storage.storage import Storage


class UntilDecided(Rows):
    """The rows of undecided claims, look by look.

    Args:
        whole: The rows of all claims with as many seeds as there may be.
        storage: The truth: from it alone every launch computes what comes next.
        most: Seeds of a row at most.
        budget: Hours to be spent by the plan, over all launches; None: no limit.
        cores: Of a training.
    """

    def __init__(self, whole: Plan, storage: Storage, most: int, budget: float | None, cores: int | None) -> None:
        listing = {loaded.name: digest(content_of(loaded, whole)) for loaded in whole.spaces}
        first = sorted({each.training for each in whole.trials})  # data and code, which a registration does not cover
        asked = {"preset": whole.preset.name, "until": listing, "seeds": most, "trainings": first}
        self.whole = replace(whole, id=digest(asked)[:10], until=most)
        super().__init__(replace(self.whole, seeds=[], trials=[], trainings={}))
        self._storage, self._most, self._budget = storage, most, budget
        self.costs = Costs(self.whole, storage, cores or os.cpu_count() or 1)
        self._courses = Courses(self.whole, storage, self.costs, most, budget)
        self._session: Session | None = None
        self._created_ms: int | None = None
        self._out: set[str] = set()
        self._tried: dict[str, frozenset[str]] = {}
        self._wanted: list[str] = []
        self._waits: list[set[str]] = []
        self._stale = False
        self._look()

    def may_train(self) -> Iterable[PlannedTraining]:
        """See `Subject`: whatever a later look may want."""
        return self.whole.trainings.values()

    def _look(self) -> list[str]:
        """Compute from storage what is in play; keys of trainings that have joined."""
        self._stale = False
        again: Iterable[str] = ()
        if self._session is not None and self._session.options.retry_failed:
            again = self.whole.trainings.keys() - self._tried.keys()
        self._courses.look(self._since(), again)
        places, plan = self._courses.in_play(), self.plan
        plan.trials[:] = [each for place, each in self._courses.planned.items() if place in places]
        seeds = {place[2] for place in places}
        plan.seeds = [seed for seed in self.whole.seeds if seed in seeds]
        rows = {loaded.name: [row.label for row in loaded.space.rows] for loaded in plan.spaces}
        plan.not_needed = self._courses.not_needed(rows)
        before = set(plan.trainings)
        for key in before - {each.training for each in plan.trials} - self._out:
            del plan.trainings[key]
        for planned in plan.trials:
            known = self.whole.trainings[planned.training]
            fresh = replace(known, spec=planned.trial.spec, rows=[], measurements={})
            training = plan.trainings.setdefault(planned.training, fresh)
            row = f"{planned.trial.space}/{planned.trial.label}"
            training.rows += [] if row in training.rows else [row]
            for key in {*planned.columns.values(), *planned.analyses.values()}:
                training.measurements.setdefault(key, known.measurements[key])
        self._wanted = list(dict.fromkeys(self._courses.wanted()))
        self._waits = [
            {self._courses.planned[place].training for place in each.places} & set(self._wanted)
            for each in self._courses.stands
            if each.fate == "goes on"
        ]
        return [key for key in plan.trainings if key not in before]

    def _since(self) -> int:
        """When the plan was launched first."""
        if self._created_ms is None:
            with contextlib.suppress(StorageError):  # it was not, or nobody can tell
                self._created_ms = plans.load(self._storage, self.plan.id).created_ms
        return now_ms() if self._created_ms is None else self._created_ms

    def decide(self, storage: Storage, options: Options) -> None:
        """See `Subject`; a budget that pays for nothing is refused."""
        super().decide(storage, options)
        hours = self._budget
        keys = {self._courses.planned[place].training for each in self._courses.stands for place in each.places}
        least = min(map(self.costs.left, keys), default=0.0)
        if hours is not None and hours < least and not self._courses.spent:
            told = f"about {hours_text(least, self.costs.unit)}, got {hours:g}"
            raise UserError(f"--budget-hours: expected at least what one training takes, {told}")

    def expected(self, storage: Storage) -> Estimate:
        """See `Subject`: at most, within the budget."""
        return self._estimate(self._largest())

    def _largest(self) -> float:
        """Hours that the claims may take yet, within the budget."""
        rows = {
            (each.question.space, row)
            for each in self._courses.stands
            if each.fate in ("goes on", "budget")
            for row in each.rows
        }
        hours = self._courses.hours(place for place in self._courses.planned if place[:2] in rows)
        return min(hours, max(0.0, self._courses.left))

    def _estimate(self, hours: float) -> Estimate:
        return self.costs.machine.taking(self.costs.here(hours), "at most")

    def resources(self, options: Options) -> Resources:
        """See `Subject`: shares of the first look, however far it is, so that a resume goes on with as many threads."""
        first = {place for each in self._courses.questions for place in each.first}
        return resources_of(options, len({self._courses.planned[place].training for place in first}))

    def foreseen(self, storage: Storage, expected: Estimate) -> list[PowerAnalysis]:
        """See `Subject`: of as many seeds as there may be."""
        decide(self.whole, storage)
        return analyse_power(self.whole, storage, self._estimate(self._courses.hours(self._courses.planned)))

    def outlook(self, foreseen: list[PowerAnalysis]) -> dict[str, Any]:
        """See `Subject`: what the effects foreseen would take, and what it takes at most."""
        wants = set()
        for each, told in zip(self._courses.stands, foreseen, strict=True):
            if each.fate != "goes on":
                continue
            count = min(told.seeds or self._most, self._most)
            wants |= set(each.question.places(each.rows, count))
        most = self._largest()
        return {
            "expected_hours": min(self._courses.hours(wants), most),
            "largest_hours": most,
            "spent_hours": self._courses.spent,
            "budget_hours": self._budget,
            "unit": self.costs.unit,
        }

    def show_planned(self, console: Console) -> None:
        """See `Subject`; and where each claim stands, which says what a budget does not pay for."""
        super().show_planned(console)
        self._tell(console)

    def begin(self, session: Session) -> None:
        """See `Subject`."""
        self._session = session
        self._grow()

    def take(self, like: Callable[[PlannedTraining], bool] = lambda training: True) -> PlannedTraining | None:
        """See `Source`."""
        if self._stale:
            self._grow()
        for key in self._wanted:
            training = self.plan.trainings.get(key)
            if training is None or key in self._out or self._tried.get(key) == frozenset(training.measurements):
                continue
            if like(training):
                self._out.add(key)
                self._tried[key] = frozenset(training.measurements)
                return training
        return None

    def ended(self, training: PlannedTraining, *, before: bool) -> None:
        """See `Source`: where it was the last that a look waited for, what comes next is computed anew."""
        self._out.discard(training.key)
        for waits in self._waits:
            waits.discard(training.key)
        self._stale = self._stale or self._budget is not None or training.action != "reuse" or not all(self._waits)

    def _grow(self) -> None:
        session = self._session
        assert session is not None
        before = set(self.plan.trainings)
        joined = self._look()
        for key in before - self.plan.trainings.keys():
            session.progress.forget(key)
        decide(self.plan, session.storage, retry_failed=session.options.retry_failed, only=joined)
        for key in joined:
            session.admit(self.plan.trainings[key])
            session.progress.follow(key)
        session.keep_plan()

    def finished(self) -> None:
        """See `Subject`: what was decided is written down."""
        if self._session is not None:
            self._look()
            self._session.keep_plan()

    def tell(self, session: Session) -> None:
        """See `Subject`."""
        super().tell(session)
        session.console.print()
        self._look()
        decide(self.plan, session.storage)
        self._tell(session.console)

    def _tell(self, console: Console) -> None:
        stands, unit = self._courses.stands, self.costs.unit
        done = sum(each.fate == "decided" for each in stands)
        limit = f" of {self._budget:g}" if self._budget is not None else ""
        spent = f"{hours_text(self._courses.spent, '').strip()}{limit} {unit} spent"
        console.print(Text(f"{done} of {plural(len(stands), 'claim')} decided, {spent}:", overflow="fold"))
        for each in stands:
            console.print(Text(f"  {printable(each.sentence(unit))}", overflow="fold"))
