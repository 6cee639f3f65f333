"""How a plan's runs lie in MLflow's table: which are whose, in which order, and with which parameters.

Rows lie flat and side by side, published ones too: MLflow folds what has a parent away. What belongs together is told
by tags, among them the id of the plan's own run; earlier versions nested runs below that one.
"""

from __future__ import annotations

from collections.abc import Sequence

from ablate.storage.plans import SpacePart, TrialPart
from ablate.tracking.identity import flat
from ablate.tracking.store import Run, Store

PLAN_RUN = "ablate.plan_run_id"
"""Of a trial or a published row: the id of its plan's run."""

PARENT = "mlflow.parentRunId"
"""Where earlier versions kept that id, and where users keep runs of their own below others."""

PLACE = "ablate.place"
"""Of a trial or a published row: a text that sorts as the table does."""

ROW, SEED = "row", "seed"
"""Parameters that every row has; a published one's seed is `published`."""

PUBLISHED = "published"


def plan_run_of(run: Run) -> str:
    """The id of the plan's run that a trial or a published row names; empty where it names none."""
    return run.tags.get(PLAN_RUN) or run.tags.get(PARENT, "")


def below(store: Store, experiment: str, plan_run: str) -> list[Run]:
    """Runs that name a plan's run, as this version or as an earlier one does it.

    Args:
        store: Where.
        experiment: Its id.
        plan_run: The id of the plan's run.

    Returns:
        Each once.
    """
    found = [run for tag in (PLAN_RUN, PARENT) for run in store.runs(experiment, {tag: plan_run})]
    return list({run.id: run for run in found}.values())


def unfold(store: Store, run: Run, plan_run: str) -> None:
    """Take a run of an earlier version out from below its plan's run.

    Args:
        store: Where.
        run: Of a trial or a published row.
        plan_run: The id of the plan's run; below any other than that a user has put it.
    """
    if PARENT in run.tags and (PLAN_RUN not in run.tags or run.tags[PARENT] == plan_run):
        store.untag(run, PARENT)


def varying(space: SpacePart, trials: Sequence[TrialPart]) -> list[str]:
    """Dotted paths of the settings that differ between a space's rows; of a search those that are searched.

    Returns:
        Sorted, without the seed. A search's are the same however many samples there are yet.
    """
    if space.search is not None:
        return sorted(space.search["parameters"])
    settings = [flat(trial.spec) for trial in trials if trial.space == space.name]
    names = {name for each in settings for name in each} - {SEED}
    # One that only some rows have varies too: `training.ema` of one is `training.ema.decay` of another.
    return sorted(name for name in names if len({each.get(name) for each in settings}) > 1)


def row_parameters(row: str, seed: str, names: Sequence[str], trial: TrialPart | None) -> dict[str, str]:
    """The parameters of a row in MLflow's table; all others are the training's, and in `spec.json`.

    Args:
        row: Its label.
        seed: Its seed, or `published`.
        names: Of the settings that vary, as `varying` tells them.
        trial: Of the row; none where only published numbers are there of it.

    Returns:
        Name -> value.
    """
    settings = flat(trial.spec) if trial is not None else {}
    within = tuple(f"{name}." for name in names)  # what is searched may have settings of its own
    return {ROW: row, SEED: seed, **{name: value for name, value in settings.items() if f"{name}.".startswith(within)}}


def places(space: SpacePart, trials: Sequence[TrialPart]) -> dict[tuple[str, int | None], str]:
    """The tag by which a space's runs sort as its table does: rows in order, published before ours.

    Returns:
        Row and seed, or row and None for the published numbers -> text. More samples of a search change none.
    """
    found: dict[tuple[str, int | None], str] = {}
    order = {row.label: number for number, row in enumerate(space.rows)}
    counts = dict.fromkeys(order, 0)
    for label, number in order.items():
        found[label, None] = f"{number:05d}.0000"
    for trial in trials:
        if trial.space == space.name and trial.row in order:
            counts[trial.row] += 1
            found[trial.row, trial.seed] = f"{order[trial.row]:05d}.{counts[trial.row]:04d}"
    return found
