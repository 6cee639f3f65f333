"""What verdicts found out about trials, told to their runs in MLflow as tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ablate.report.replications import REPLICATED_TAG, replications_by_trial, to_tag
from ablate.report.verdicts.masking import Masked
from ablate.spaces.masking import SEARCH
from ablate.spaces.metrics import Metric
from ablate.spaces.networks import Network

if TYPE_CHECKING:
    from ablate.storage.storage import Storage
    from ablate.tracking.tracked_plan import TrackedPlan
    from ablate.tracking.tracker import Tracker

MASKED_TAG = "ablate.masked"
"""Metrics of a run that are too high, since a search without gradients is right on fewer images."""


def mark_runs(tracker: Tracker, plan: TrackedPlan, masked: Sequence[Masked], network: Network = "last") -> None:
    """Tag the runs of rows with masked columns, and take back what is said no more.

    Args:
        tracker: Where the runs are.
        plan: Whose.
        masked: From `masked_columns`.
        network: Whose numbers these are about.

    Raises:
        TrackingError: The store does not answer.
    """
    if not any(SEARCH in map(_column, trial.columns) for trial in plan.plan.trials):
        return
    tag = MASKED_TAG if network == "last" else f"{MASKED_TAG}_{network}"
    for (row, _), trial in plan.trials.items():
        columns = [Metric.from_name(each.column, network).run_name for each in masked if each.row == row]
        if trial.run_id is not None:
            tracker.tag(trial.run_id, tag, ", ".join(columns) or None)


def mark_replicated(tracker: Tracker, plan: TrackedPlan, storage: Storage) -> bool:
    """Tag the runs of trials that were trained again with how they came out.

    Args:
        tracker: Where the runs are.
        plan: Whose.
        storage: That has them.

    Returns:
        Whether a tag is another one now.

    Raises:
        TrackingError: The store does not answer.
    """
    changed = False
    for where, found in replications_by_trial(storage, plan.plan.trials).items():
        trial, told = plan.trials[where], to_tag(found)
        if trial.run_id is not None and trial.tags.get(REPLICATED_TAG) != told:
            tracker.tag(trial.run_id, REPLICATED_TAG, told)
            changed = True
    return changed


def _column(name: str) -> str:
    return Metric.from_run(name).column
