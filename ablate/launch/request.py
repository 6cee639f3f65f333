"""What a command line asks for: its spaces, its trials, its plan."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ablate import spaces
from ablate.core.errors import SpecError, UserError, nearest
from ablate.core.text import duration
from ablate.core.user_code import import_modules
from ablate.execution.addresses import ray_address
from ablate.launch.options import Options
from ablate.launch.sources import Rows, Samples, Subject
from ablate.planning.estimates import DAY_S
from ablate.planning.plan import Plan, make_plan
from ablate.planning.search_plan import SearchPlan, search_plan
from ablate.spaces.space import SpaceFile, Trial
from ablate.spaces.trials import configured_search
from ablate.storage.storage import Storage

if TYPE_CHECKING:
    from ablate.execution.jobs import Submission


def trials_of(options: Options) -> tuple[list[SpaceFile], list[Trial]]:
    """The spaces and trials a command line asks for, before any data are looked at.

    Args:
        options: The command line.

    Returns:
        The spaces, and their rows with every seed.

    Raises:
        UserError: Anything in it that cannot be used.
    """
    import_modules(options.imports)
    names = [name for given in options.space for name in (spaces.table_names() if given == "all" else [given])]
    loaded = [spaces.load_space(name) for name in dict.fromkeys(names)]
    spaces.load_preset(options.preset)
    overrides = spaces.parse_overrides(options.sets)
    trials = [trial for space in loaded for trial in spaces.expand(space, options.preset, overrides, options.seeds)]
    labels = {trial.label for trial in trials}
    for row in options.rows:
        if row not in labels:
            raise SpecError(f"--row: expected the label of a row, got {row!r}; {nearest(row, labels)}")
    return loaded, [trial for trial in trials if not options.rows or trial.label in options.rows]


def subject_of(options: Options, storage: Storage) -> Subject:
    """What a command line asks for: the rows of tables, or the samples of one search.

    Args:
        options: The command line.
        storage: Where a search's samples are recorded.

    Returns:
        Before storage is asked about trainings.

    Raises:
        UserError: Anything in it that cannot be used.
    """
    import_modules(options.imports)
    searches = [name for name in options.space if name != "all" and spaces.load_space(name).space.search is not None]
    if not searches:
        return Rows(plan_of_trials(options, *trials_of(options)))
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

    def make(readonly: bool) -> SearchPlan:
        loaded = spaces.load_space(options.space[0])
        asked = configured_search(loaded, options.preset, spaces.parse_overrides(options.sets), options.seeds[0])
        return search_plan(asked, lambda *given: plan_of_trials(options, *given), storage, readonly=readonly)

    return Samples(make)


def plan_of(options: Options) -> Plan:
    """The plan a command line asks for, before storage is looked at; of a search, its samples so far.

    Args:
        options: The command line.

    Returns:
        The plan.

    Raises:
        UserError: Anything in it that cannot be used.
    """
    return subject_of(options, Storage(options.storage)).plan


def plan_of_trials(options: Options, loaded: list[SpaceFile], trials: list[Trial]) -> Plan:
    """The plan of trials, under the settings of a command line.

    Args:
        options: The command line.
        loaded: The spaces they are of.
        trials: What is asked for.

    Returns:
        The plan.

    Raises:
        UserError: Data that cannot be used.
    """
    return make_plan(
        loaded,
        trials,
        preset=options.preset,
        overrides=options.sets,
        seeds=options.seeds,
        data_root=options.data_root,
    )


def fitting_preset(options: Options, storage: Storage) -> str:
    """Which preset of the same spaces takes less than a day here, in a sentence.

    Args:
        options: The command line.
        storage: Where results are.

    Returns:
        The preset and its time, or what else can be done.
    """
    for preset in spaces.preset_names():
        if preset == options.preset:
            continue
        with contextlib.suppress(UserError):  # a preset that does not go with these settings is none to propose
            other = replace(options, preset=preset)
            subject = subject_of(other, storage)
            subject.decide(storage, other)
            expected = subject.expected(storage)
            if expected.wall_s <= DAY_S:
                return f"--preset {preset} takes about {duration(expected.wall_s)} here."
    return "No preset of these spaces takes less than a day here; --cluster submits to a Ray cluster."


def submission_of(options: Options, plan_id: str | None) -> Submission:
    """What a job server is asked to run.

    Args:
        options: The command line, with `cluster`.
        plan_id: Of its plan; None where that cannot be known here.

    Returns:
        Everything that travels, and the job's own command line.

    Raises:
        UserError: Anything in it that cannot be used, or that a job cannot do.
    """
    from ablate.execution.jobs import Submission
    from ablate.execution.package import own_spaces

    assert options.cluster is not None
    loaded, trials = trials_of(options)
    refused = {"--local": options.local, "--json": options.as_json and not options.dry_run}
    for flag in (flag for flag, given in refused.items() if given):
        raise UserError(f"expected {flag} or --cluster, got both")
    sent = {str(path): name for name, path in own_spaces(loaded).items()}
    uri = (options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")) if options.tracking else None
    # On the head it is a launch like any other, with the files that travelled.
    there = replace(
        options,
        space=[sent.get(str(Path(space.file.path).resolve()), space.name) for space in loaded],
        tracking_uri=uri,
        dry_run=False,
        as_json=False,
        cluster=None,
        storage_is_shared=False,
        include=[],
    )
    return Submission(
        options.cluster,
        there.to_arguments(),
        loaded,
        trials,
        plan_id,
        storage=options.storage,
        storage_is_shared=options.storage_is_shared,
        tracking=options.tracking,
        tracking_uri=uri,
        imports=options.imports,
        include=options.include,
    )


def runs_here(options: Options) -> bool:
    """Whether a launch would run on this machine, and not on a cluster."""
    return options.cluster is None and (options.local or ray_address() is None)
