"""The plan of a search: the samples so far, those that can be told beforehand, and how long it would take."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TextIO

from rich.console import Console

from ablate import spaces
from ablate.core import digest
from ablate.core.errors import SpecError
from ablate.core.text import plural
from ablate.launch.console import plan_as_json, show_estimate, show_plan
from ablate.launch.options import Options
from ablate.launch.request import plan_of_trials
from ablate.planning.estimates import Estimate, estimate
from ablate.planning.plan import Plan, PlannedTraining, decide
from ablate.planning.search import Search
from ablate.spaces.space import Row
from ablate.spaces.trials import ConfiguredSearch, Sample, configured_search
from ablate.storage.storage import Storage


@dataclass
class SearchPlan:
    """A search with the plan of its samples so far.

    Args:
        asked: What to search.
        search: Its samples.
        plan: Of these samples; `grow` adds to it.
        base: The plan of the configuration without any sample's values.
        options: The command line.
        unfit: Number of a sample -> why its settings do not go together (a batch larger than the data): it counts as
            failed, and the search goes on.
    """

    asked: ConfiguredSearch
    search: Search
    plan: Plan
    base: Plan
    options: Options
    unfit: dict[int, str] = field(default_factory=dict)

    def grow_if_fit(self, sample: Sample) -> PlannedTraining | None:
        """Take a sample into the plan, or note in `unfit` why it cannot be trained.

        Args:
            sample: Any.

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

        Args:
            sample: Any.

        Returns:
            Its training, which an earlier sample may have too.

        Raises:
            SpecError: Its settings do not go together.
        """
        trial = self.asked.trial(sample)
        made = plan_of_trials(self.options, [self.asked.file], [trial])
        [planned] = made.trials
        known = self.plan.trainings.setdefault(planned.training, made.trainings[planned.training])
        if all(other.trial.label != sample.label for other in self.plan.trials):
            if known is not made.trainings[planned.training]:
                known.rows.append(f"{trial.space}/{trial.label}")
                known.measurements |= made.trainings[planned.training].measurements
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


def search_plan(options: Options, storage: Storage, *, readonly: bool = True) -> SearchPlan:
    """The search that a command line asks for.

    Args:
        options: With one space, which is a search.
        storage: Where its samples are recorded.
        readonly: Write nothing.

    Returns:
        The search and the plan of its samples so far. The plan's id says what is searched, under which settings and by
        which seed; not how long, so that more samples go on with the same search.

    Raises:
        UserError: Anything in it that cannot be used.
    """
    if len(options.space) > 1:
        raise SpecError("--space: expected a search on its own, got it with other spaces; launch one after the other")
    if options.rows:
        raise SpecError(
            f"--row: expected none for a search, whose samples are found while it runs, got {options.rows[0]!r}"
        )
    if len(options.seeds) > 1:
        raise SpecError(
            f"--seeds: expected one seed for a search, got {len(options.seeds)}; the best configuration is launched "
            "with several, as python -m ablate.report writes it"
        )
    loaded = spaces.load_space(options.space[0])
    asked = configured_search(loaded, options.preset, spaces.parse_overrides(options.sets), options.seeds[0])
    base = plan_of_trials(options, [loaded], [asked.trial(Sample(0))])
    [training] = base.trainings.values()
    what = asked.search.model_dump(mode="json", exclude={"samples", "time_budget_minutes"})
    base_keys = sorted([training.key, *training.measurements])
    plan_id = digest.digest({"preset": options.preset, "search": what, "base": base_keys})[:10]
    # What a preset left of the search is what the plan, and so the report, tells.
    settled = replace(loaded, space=loaded.space.model_copy(update={"search": asked.search}))
    plan = Plan(plan_id, [settled], options.preset, list(options.sets), list(options.seeds), [], {}, search=True)
    found = SearchPlan(asked, Search(asked.search, plan_id, storage, readonly=readonly), plan, base, options)
    for sample in found.search.samples:
        found.grow_if_fit(sample)
    return found


def foreseen(found: SearchPlan) -> int:
    """Take into a plan the samples that can be told beforehand: of a random search or a grid, all.

    Args:
        found: Read only; nothing is recorded.

    Returns:
        How many more there will be that nobody can tell yet.
    """
    number = len(found.search.samples)
    while found.search.limit is None or number < found.search.limit:
        if found.search.limit is None and found.asked.search.searcher != "grid":
            return 0
        sample = found.search.foreseen(number)
        if sample is None:
            break
        found.grow_if_fit(sample)
        number += 1
    if found.asked.search.searcher == "grid":
        return 0
    return (found.search.limit or number) - number


def search_estimate(found: SearchPlan, storage: Storage) -> Estimate:
    """How long a search would take at most.

    Args:
        found: Decided.
        storage: As of `estimate`.

    Returns:
        As if nothing were stopped early; samples nobody can tell yet take as long as the space's own settings.
    """
    unknown = foreseen(found)
    decide(found.plan, storage)
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


def dry_run(options: Options, storage: Storage, console: Console, out: TextIO) -> int:
    """Show a search without recording anything; as of `ablate.launch.session.launch`."""
    found = search_plan(options, storage)
    unknown = foreseen(found)
    decide(found.plan, storage, retry_failed=options.retry_failed)
    expected = search_estimate(found, storage)
    if options.as_json:
        content = {**plan_as_json(found.plan), "estimate": expected.as_json(), "not_yet_known": unknown}
        out.write(json.dumps(content, indent=1) + "\n")
        return 0
    show_plan(found.plan, console)
    if unknown:
        console.print(f"{plural(unknown, 'more sample')} will be suggested by {found.asked.search.searcher}.")
    show_estimate(expected, console)
    return 0
