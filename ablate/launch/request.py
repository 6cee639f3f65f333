"""What a command line asks for: the files it names, read once for a launch, and the trials and plan they make.

Nothing heavy is imported before a plan is asked for: every mistake in the files is told by then.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ablate import spaces
from ablate.core.errors import SpecError, UserError, each_on_its_own, nearest
from ablate.core.places import is_address
from ablate.core.user_code import import_modules
from ablate.launch.options import Options
from ablate.spaces.loading import tables
from ablate.spaces.settings import Setting
from ablate.spaces.space import PresetFile, SpaceFile, Trial
from ablate.spaces.trials import configured_search

if TYPE_CHECKING:
    from ablate.execution.jobs import Submission
    from ablate.launch.sources import Subject
    from ablate.planning.plan import Plan
    from ablate.planning.search_plan import SearchPlan
    from ablate.storage.storage import Storage


@dataclass(frozen=True)
class Request:
    """The options of a launch and the files they name, as these were when they were read: nobody reads them again.

    Args:
        options: The command line.
        spaces: Those asked for, each once.
        preset: The one asked for.
        overrides: What `--set` sets.
        load_preset: Any preset, each read once.
    """

    options: Options
    spaces: tuple[SpaceFile, ...]
    preset: PresetFile
    overrides: tuple[Setting, ...]
    load_preset: Callable[[str], PresetFile] = field(repr=False, compare=False)

    @classmethod
    def read(cls, options: Options, loaded: Iterable[SpaceFile] | None = None) -> Self:
        """Load what a command line names.

        Args:
            options: The command line.
            loaded: Its spaces, where they are loaded already.

        Raises:
            UserError: Anything in it that cannot be used.
        """
        import_modules(options.imports)
        load_preset = functools.cache(spaces.load_preset)
        if loaded is None:
            load_space = functools.cache(functools.partial(spaces.load_space, load_preset=load_preset))
            for name in options.space:
                if hint := each_on_its_own("--space", name, [*spaces.space_names(), "all"]):
                    raise SpecError(f"--space: expected one space, got {name!r}; {hint}")
            given = [
                space
                for name in options.space
                for space in (tables(map(load_space, spaces.space_names())) if name == "all" else [load_space(name)])
            ]
            loaded = {space.file.path.resolve(): space for space in given}.values()
        preset = load_preset(options.preset)
        return cls(options, tuple(loaded), preset, tuple(spaces.parse_overrides(options.sets)), load_preset)

    def under(self, preset: str) -> Self:
        """The same under another preset.

        Raises:
            UserError: No such preset, or one that is refused.
        """
        return replace(self, options=replace(self.options, preset=preset), preset=self.load_preset(preset))

    def trials(self) -> list[Trial]:
        """The rows asked for with every seed, before any data are looked at; none of a search.

        Raises:
            UserError: A setting that cannot be used, or a row that is not there.
        """
        options = self.options
        trials = [
            trial
            for space in self.spaces
            for trial in spaces.expand(space, self.preset, self.overrides, options.seeds or [0])
        ]
        labels = {trial.label for trial in trials}
        for flag, rows in (("--row", options.rows), ("--rerun", options.rerun)):
            for row in rows:
                if row not in labels:
                    hint = each_on_its_own(flag, row, labels) or nearest(row, labels)
                    raise SpecError(f"{flag}: expected the label of a row, got {row!r}; {hint}")
        rows = options.rerun or options.rows
        return [trial for trial in trials if not rows or trial.label in rows]

    def subject(self, storage: Storage) -> Subject:
        """What is to be done: the rows of tables, of finished ones once more, or the samples of one search.

        Args:
            storage: Where a search's samples are recorded, and what is finished.

        Returns:
            Before storage is asked about trainings.

        Raises:
            UserError: Anything asked for that cannot be used.
        """
        from ablate.launch.sources import Rows, Samples

        if self.options.rerun:
            return self._rerun(storage)
        if self.options.until_decided:
            return self._until_decided(storage)
        for flag, given in (("--budget-hours", self.options.budget_hours), ("--max-seeds", self.options.max_seeds)):
            if given is not None:
                raise SpecError(f"{flag}: expected --until-decided beside it, got none")
        if all(space.space.search is None for space in self.spaces):
            return Rows(self._plan_of_trials(self.trials()))
        options = self.options
        if len(self.spaces) > 1:
            raise SpecError(
                "--space: expected a search on its own, got it with other spaces; launch one after the other"
            )
        if options.rows:
            raise SpecError(
                f"--row: expected none for a search, whose samples are found while it runs, got {options.rows[0]!r}"
            )
        if len(options.seeds) > 1:
            raise SpecError(
                f"--seeds: expected one seed for a search, got {len(options.seeds)}; the best configuration is "
                "launched with several, as python -m ablate.report writes it"
            )
        asked = configured_search(self.spaces[0], self.preset, self.overrides, options.seeds[0])

        def make(readonly: bool) -> SearchPlan:
            from ablate.planning.search_plan import search_plan

            return search_plan(asked, self.plan_of, storage, readonly=readonly)

        return Samples(make)

    def _until_decided(self, storage: Storage) -> Subject:
        options, flag = self.options, "--until-decided"
        for space in self.spaces:
            if not space.space.claims:
                what = "a search" if space.space.search is not None else "none"
                raise SpecError(f"{flag}: expected a space with claims, got {what} in {space.name}")
        if not self.preset.preset.decides_claims:
            raise SpecError(f"{flag}: expected a preset that decides claims, got {self.preset.name}")
        if options.rows:
            raise SpecError(f"--row: expected none with {flag}, which has those of claims, got {options.rows[0]!r}")
        if options.seeds != [0]:
            raise SpecError(f"--seeds: expected none with {flag}, the space says their order; --max-seeds limits them")
        if find_spec("scipy") is None:
            raise SpecError(f"{flag}: expected scipy on this machine, which decides, got none")
        from ablate.launch.claim_progress import questions_of
        from ablate.launch.sequential import UntilDecided
        from ablate.report.verdicts.looks import needs

        trials: list[Trial] = []
        most = options.max_seeds or max(space.space.design.looks[-1] for space in self.spaces)
        seeds: dict[int, None] = {}
        for space in self.spaces:
            design = space.space.design
            if most < design.looks[0]:
                least = f"at least {design.looks[0]}, the first look of {space.name}"
                raise SpecError(f"--max-seeds: expected {least}, got {most}")
            about = {row for question in questions_of([space]) for row in needs(question.asked)}
            first = list(design.first(max(n for n in design.looks if n <= most)))
            seeds |= dict.fromkeys(first)
            trials += [t for t in spaces.expand(space, self.preset, self.overrides, first) if t.label in about]
        whole = self.plan_of(self.spaces, trials, list(seeds))
        return UntilDecided(whole, storage, most, options.budget_hours, options.cpus_per_trial)

    def _rerun(self, storage: Storage) -> Subject:
        from ablate.launch.reruns import OnceMore, Reruns
        from ablate.planning.plan import decide

        options, flag = self.options, "--rerun"
        if options.rows:
            raise SpecError(f"--row: expected {flag} alone, which names its rows, got --row {options.rows[0]!r}, too")
        if options.until_decided:
            raise SpecError(f"{flag}: expected it without --until-decided, which trains what was not, got both")
        for loaded in self.spaces:
            if loaded.space.search is not None:
                raise SpecError(f"{flag}: expected the row of a table, got the search {loaded.name!r}")
        seeds = options.seeds or self._known_seeds(storage)
        plan = self._plan_of_trials(replace(self, options=replace(options, seeds=seeds)).trials(), seeds)
        decide(plan, storage)
        incomplete = [each.trial for each in plan.trials if plan.trainings[each.training].lacks_network]
        if incomplete:
            return OnceMore(self._plan_of_trials(incomplete, sorted({trial.seed for trial in incomplete})))
        kept = []
        for planned in plan.trials:
            training, trial = plan.trainings[planned.training], planned.trial
            if training.weights is not None:
                raise SpecError(f"{flag}: expected a row that was trained, got {trial.label!r} of foreign weights")
            if training.action == "reuse":
                kept.append(trial)
            elif options.seeds:
                told = f"got seed {trial.seed} of {trial.label!r}, which is not"
                raise SpecError(f"{flag}: expected finished seeds, {told}; launch it without {flag} first")
        lacking = [row for row in options.rerun if row not in {trial.label for trial in kept}]
        if lacking:
            told = f"got {lacking[0]!r} without a finished seed; launch it without {flag} first"
            raise SpecError(f"{flag}: expected a finished row, {told}")
        again = self._plan_of_trials(kept, sorted({trial.seed for trial in kept}))
        # Nothing is decided here, so that nothing is registered.
        again.spaces = [replace(each, space=each.space.model_copy(update={"claims": []})) for each in again.spaces]
        return Reruns(again, storage, options)

    def _known_seeds(self, storage: Storage) -> list[int]:
        """Every seed that a launch into this storage asked of one of the rows to be trained again."""
        from ablate.storage import plans

        names = {space.name for space in self.spaces}
        files = plans.load_all(storage)
        asked = {t.seed for file in files for t in file.trials if t.space in names and t.row in self.options.rerun}
        return sorted(asked) or [0]

    def _plan_of_trials(self, trials: list[Trial], seeds: Sequence[int] | None = None) -> Plan:
        """Their plan; a space without any of them has no table."""
        asked_for = {trial.space for trial in trials}
        return self.plan_of([space for space in self.spaces if space.name in asked_for], trials, seeds)

    def plan(self) -> Plan:
        """The plan, before storage is asked about trainings; of a search, its samples so far.

        Raises:
            UserError: Anything asked for that cannot be used.
        """
        from ablate.launch.other_storages import opened

        return self.subject(opened(self.options)).plan

    def plan_of(self, loaded: Sequence[SpaceFile], trials: Sequence[Trial], seeds: Sequence[int] | None = None) -> Plan:
        """The plan of some trials.

        Args:
            loaded: Their spaces.
            trials: Of these.
            seeds: Theirs; none: those asked for.

        Raises:
            UserError: Anything asked for that cannot be used.
        """
        from ablate.planning.plan import make_plan

        options = self.options
        return make_plan(
            loaded,
            trials,
            preset=self.preset,
            overrides=options.sets,
            seeds=options.seeds if seeds is None else seeds,
            data_root=options.data_root,
        )


def submission_of(request: Request, plan_id: str | None) -> Submission:
    """What a job server is asked to run.

    Args:
        request: With `cluster`.
        plan_id: Of its plan; None where that cannot be known here.

    Returns:
        Everything that travels, and the job's own command line.

    Raises:
        UserError: Anything in it that cannot be used, or that a job cannot do.
    """
    from ablate.execution.jobs import Submission
    from ablate.execution.package import own_spaces

    options, trials = request.options, request.trials()
    assert options.cluster is not None
    refused = {"--local": options.local, "--json": options.as_json and not options.dry_run}
    for flag in (flag for flag, given in refused.items() if given):
        raise UserError(f"expected {flag} or --cluster, got both")
    sent = {str(path): name for name, path in own_spaces(request.spaces).items()}
    uri = (options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")) if options.tracking else None
    # On the head it is a launch like any other, with the files that travelled.
    there = replace(
        options,
        space=[sent.get(str(Path(space.file.path).resolve()), space.name) for space in request.spaces],
        tracking_uri=uri,
        dry_run=False,
        as_json=False,
        cluster=None,
        storage_is_shared=False,
        include=[],
        also=[_below(place) for place in options.also],
    )
    return Submission(
        options.cluster,
        there.to_arguments(),
        request.spaces,
        trials,
        plan_id,
        storage=options.storage,
        storage_is_shared=options.storage_is_shared,
        tracking=options.tracking,
        tracking_uri=uri,
        imports=options.imports,
        # A job server's machine has none of this one's files, unless all mount them.
        include=[
            *options.include,
            *(path for path in there.also if not is_address(path) and not Path(path).is_absolute()),
        ],
    )


def _below(place: str) -> str:
    """A place by its path from here, where it lies below: a job has its files there."""
    path = Path(place).expanduser()
    if is_address(place) or not path.exists() or not path.resolve().is_relative_to(Path.cwd()):
        return place
    return str(path.resolve().relative_to(Path.cwd()))
