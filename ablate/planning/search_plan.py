"""A search with the plan of its samples so far, those that can be told beforehand, and how long it would take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ablate.core import digest
from ablate.core.errors import SpecError
from ablate.planning.estimates import Estimate, estimate
from ablate.planning.plan import Plan, PlannedTraining, decide
from ablate.planning.search import Search
from ablate.spaces.space import Row, SpaceFile, Trial
from ablate.spaces.trials import ConfiguredSearch, Sample
from ablate.storage.storage import Storage

MakePlan = Callable[[list[SpaceFile], list[Trial]], Plan]


@dataclass
class SearchPlan:
    """A search with the plan of its samples so far.

    Args:
        asked: What to search.
        search: Its samples.
        plan: Of these samples; `grow` adds to it.
        base: The plan of the configuration without any sample's values.
        make: The plan of trials, under the settings of the launch.
        unfit: Number of a sample -> why its settings do not go together (a batch larger than the data): it counts as
            failed, and the search goes on.
        unknown: How many samples nobody can tell yet, once that was looked for.
    """

    asked: ConfiguredSearch
    search: Search
    plan: Plan
    base: Plan
    make: MakePlan
    unfit: dict[int, str] = field(default_factory=dict)
    unknown: int | None = None

    def foresee(self) -> int:
        """Take in the samples that can be told beforehand: of a random search or a grid, all. Nothing is recorded.

        Returns:
            How many more there will be that nobody can tell yet.
        """
        if self.unknown is None:
            self.unknown = self._foresee()
        return self.unknown

    def _foresee(self) -> int:
        number, limit, is_grid = len(self.search.samples), self.search.limit, self.asked.search.searcher == "grid"
        while limit is None or number < limit:
            if limit is None and not is_grid:
                return 0
            sample = self.search.foreseen(number)
            if sample is None:
                break
            self.grow_if_fit(sample)
            number += 1
        return 0 if is_grid else (limit or number) - number

    def grow_if_fit(self, sample: Sample) -> PlannedTraining | None:
        """Take a sample into the plan, or note in `unfit` why it cannot be trained.

        Returns:
            As of `grow`; None for an unfit one.
        """
        try:
            return self.grow(sample)
        except SpecError as error:
            self.unfit[sample.number] = str(error)
            return None

    def grow(self, sample: Sample) -> PlannedTraining:
        """Take a sample into the plan.

        Returns:
            Its training, which an earlier sample may have too.

        Raises:
            SpecError: Its settings do not go together.
        """
        trial = self.asked.trial(sample)
        made = self.make([self.asked.file], [trial])
        [planned] = made.trials
        known = self.plan.trainings.setdefault(planned.training, made.trainings[planned.training])
        if all(other.trial.label != sample.label for other in self.plan.trials):
            if known is not made.trainings[planned.training]:
                known.rows.append(f"{trial.space}/{trial.label}")
                known.measurements |= made.trainings[planned.training].measurements
                known.keep += [name for name in made.trainings[planned.training].keep if name not in known.keep]
            self.plan.trials.append(planned)
            loaded = self.plan.spaces[0]
            row = Row.model_construct(label=sample.label, set=dict(sample.values), published={}, note=sample.note)
            content = loaded.space.model_copy(update={"rows": [*loaded.space.rows, row]})
            self.plan.spaces[0] = replace(loaded, space=content)
        return known

    def training(self, sample: Sample) -> PlannedTraining:
        """The training of a sample of the plan."""
        return next(
            self.plan.trainings[planned.training] for planned in self.plan.trials if planned.trial.label == sample.label
        )


def search_plan(asked: ConfiguredSearch, make: MakePlan, storage: Storage, *, readonly: bool = True) -> SearchPlan:
    """The plan of a search.

    Args:
        asked: What to search.
        make: The plan of trials, under the settings of the launch.
        storage: Where its samples are recorded.
        readonly: Write nothing.

    Returns:
        The search and the plan of its samples so far. The plan's id says what is searched, under which settings and by
        which seed; not how long, so that more samples go on with the same search.

    Raises:
        UserError: Anything in it that cannot be used.
    """
    loaded = asked.file
    base = make([loaded], [asked.trial(Sample(0))])
    [training] = base.trainings.values()
    what = asked.search.model_dump(mode="json", exclude={"samples", "time_budget_minutes"})
    base_keys = sorted([training.key, *training.measurements])
    plan_id = digest.digest({"preset": base.preset.name, "search": what, "base": base_keys})[:10]
    # What a preset left of the search is what the plan, and so the report, tells.
    settled = replace(loaded, space=loaded.space.model_copy(update={"search": asked.search}))
    plan = replace(base, id=plan_id, spaces=[settled], trials=[], trainings={}, search=True)
    found = SearchPlan(asked, Search(asked.search, plan_id, storage, readonly=readonly), plan, base, make)
    for sample in found.search.samples:
        found.grow_if_fit(sample)
    return found


def search_estimate(found: SearchPlan, storage: Storage) -> Estimate:
    """How long a search would take at most.

    Args:
        found: Decided; what can be foreseen is taken in, and decided too.
        storage: As of `estimate`.

    Returns:
        As if nothing were stopped early; samples nobody can tell yet take as long as the space's own settings.
    """
    decided = set(found.plan.trainings)
    unknown = found.foresee()
    decide(found.plan, storage, only=found.plan.trainings.keys() - decided)
    known = estimate(found.plan, storage)
    seconds = known.work_s
    if unknown:
        for training in found.base.trainings.values():
            training.action = "train"
        one = estimate(found.base, storage)
        seconds += unknown * one.work_s
        remarks = tuple(dict.fromkeys([*known.remarks, *one.remarks]))
        known = replace(known, basis=one.basis, guessed=known.guessed or one.guessed, load=one.load, remarks=remarks)
    words = known.basis if found.asked.search.scheduler.name == "fifo" else f"{known.basis}, less what is stopped early"
    budget = found.asked.search.time_budget_minutes
    if budget is not None:
        left = max(0.0, budget * 60 - found.search.spent_s) * max(1, known.gpus)
        if found.search.limit is None or left < seconds:
            return replace(known, work_s=left, basis="by the search's time budget", guessed=False)
    return replace(known, work_s=seconds, basis=words)
