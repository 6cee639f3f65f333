"""What MLflow holds of a plan, in the form that tables, verdicts and JSON are made from."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from ablate.core.metric_names import OF_LAST_EPOCH
from ablate.report.replications import REPLICATED_TAG, Replication, from_tag
from ablate.report.results import STATES, Curves, Results, Runs, Trial
from ablate.spaces.networks import Network
from ablate.tracking.reading import storage_label
from ablate.tracking.tracked_plan import TrackedPlan, TrackedTrial
from ablate.tracking.views import compare_path, compared, runs_path

CHANGED = "Left out, changed in MLflow since it was sent: "


def results_of(plan: TrackedPlan, network: Network = "last") -> Results:
    """A plan's outcomes, and why others are missing.

    Args:
        plan: From MLflow.
        network: Whose numbers.

    Returns:
        Images, arrays and curves are fetched when they are asked for.
    """
    trials = {(row, seed): _trial(plan, row, seed, trial) for (row, seed), trial in plan.trials.items()}
    place = f"storage {storage_label(plan.info.storage)}, not {_other_storages(plan)}" if plan.others else ""
    runs = {where: trial.run_id for where, trial in plan.trials.items() if trial.run_id is not None}
    return replace(
        Results.of_plan(plan.plan, trials, network),
        place=place,
        replications=_replications(plan),
        runs=Runs(plan.info.experiment_id, runs, plan.published_runs, plan.info.view),
        left_out=lambda: left_out(plan),
    )


def pages_of(results: Results) -> tuple[str, str]:
    """Where MLflow's UI shows the runs of a plan, and where it compares them.

    Args:
        results: From MLflow.

    Returns:
        Both paths, behind the server's address.
    """
    runs = results.runs
    assert runs is not None
    measured = {where: run for where, run in runs.trials.items() if results.trials[where].metrics}
    shown = compared(measured or runs.trials, runs.published, [row.label for row in results.space.rows])
    return runs_path(runs.experiment, runs.view), compare_path(runs.experiment, shown)


def _replications(plan: TrackedPlan) -> dict[tuple[str, int], list[Replication]]:
    told = {where: from_tag(trial.tags.get(REPLICATED_TAG)) for where, trial in plan.trials.items()}
    return {where: found for where, found in told.items() if found}


def _trial(plan: TrackedPlan, row: str, seed: int, trial: TrackedTrial) -> Trial:
    at_end = {name: value for name, value in trial.metrics.items() if name.startswith(OF_LAST_EPOCH)}
    finite = {
        name: value for name, value in at_end.items() if abs(value) < sys.float_info.max
    }  # as MLflow has infinity
    return Trial(
        trial.part,
        STATES[trial.status],
        {name: value for name, value in trial.metrics.items() if name not in at_end},
        finite,
        trial.problem,
        trial.reason,
        trial.lacking,
        plan.trained(row, seed),
        None,
        Curves(lambda metric: plan.curve(row, seed, metric)),
        lambda: plan.correct(row, seed),
        lambda: plan.arrays(row, seed),
        trial.tags.get("ablate.device", ""),
    )


def _other_storages(plan: TrackedPlan) -> str:
    return " or ".join(storage_label(other.storage) for other in plan.others)


def keep_storages_apart(plans: Sequence[TrackedPlan]) -> None:
    """Leave out of earlier launches what a later one, into another storage, has other values of.

    Args:
        plans: Those of one report; a training that several share is shown from one storage.
    """
    shown: dict[tuple[str, str], tuple[str, float]] = {}  # training, measurement -> storage, value
    for plan in sorted(plans, key=lambda plan: plan.info.launched_ms, reverse=True):
        mine = plan.info.storage
        for (row, seed), trial in list(plan.trials.items()):
            for metric, key in trial.part.columns.items():
                if metric not in trial.metrics:
                    continue
                storage, value = shown.setdefault((trial.part.training, key), (mine, trial.metrics[metric]))
                if storage != mine and value != trial.metrics[metric]:
                    label = storage_label(storage)
                    plan.leave_out(row, seed, f"left out: storage {label}, launched later, has other values of it")
                    break


def left_out(plan: TrackedPlan) -> list[str]:
    """What a report of a plan leaves out of what MLflow has: runs that cannot be trusted, and other storages.

    Args:
        plan: From MLflow; images, arrays and curves are compared when they are asked for, so ask last.

    Returns:
        A sentence each, with the run's name.
    """
    found = [f"{CHANGED}{told}" for told in dict.fromkeys(plan.altered)]
    for other in plan.others:
        label = storage_label(other.storage)
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(other.launched_ms / 1000))
        asked = f"--space {plan.space.name} --plan {other.id} --storage-id {label}"
        found.append(f"Plan {other.id} has other numbers in storage {label}, launched {when}: {asked}")
    return found
