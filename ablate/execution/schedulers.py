"""Ray Tune's schedulers judge epochs: in Tune's own run, or asked in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ablate.execution import cluster  # noqa: F401  what Ray reads from the environment is set before it is imported
from ablate.spaces.search import SearchSpec

# isort: split
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

EPOCH = "epoch"


class TuneEarlyStopping:
    """Ray Tune's scheduler, asked about epochs in this process: for local searches, and for what is replayed.

    Args:
        search: Which scheduler, for which objective.
        epochs: Of a whole training. The last epoch is never judged: the training is done, only measuring is left.
        over: Whether the search's time is up; then every training stops.
    """

    def __init__(self, search: SearchSpec, epochs: int, over: Callable[[], bool] = lambda: False) -> None:
        self.metric = search.objective[0].metric
        self.scheduler = _scheduler(search, epochs, over)
        self._trials: dict[str, _Replayed] = {}

    def should_continue(self, key: str, epoch: int, value: float) -> bool:
        """Whether a training goes on after an epoch.

        Args:
            key: Of the training.
            epoch: From 1, ascending.
            value: Of the first objective.
        """
        trial = self._trials.get(key)
        if trial is None:
            trial = self._trials[key] = _Replayed(key)
            self.scheduler.on_trial_add(None, trial)
        answer = self.scheduler.on_trial_result(None, trial, {EPOCH: epoch, self.metric: value})
        return bool(answer != TrialScheduler.STOP)

    def replay(self, key: str, curve: Mapping[int, float]) -> None:
        """Show the scheduler a training that has ended, so that others are compared with it."""
        for epoch, value in sorted(curve.items()):
            self.should_continue(key, epoch, value)


class _Replayed:
    """As much of a Tune trial as schedulers look at."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


class _ByEpoch:
    """Judges reports of epochs alone, and never the last one."""

    epochs: int
    over: Callable[[], bool]

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if EPOCH not in result or result[EPOCH] < 1:
            return str(TrialScheduler.CONTINUE)
        answer = super().on_trial_result(controller, trial, result)  # type: ignore[misc]
        if result[EPOCH] >= self.epochs:
            return str(TrialScheduler.CONTINUE)
        return str(TrialScheduler.STOP if self.over() else answer)

    # Tune's snapshots pickle schedulers; ours are made again from what storage holds.
    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Fifo(_ByEpoch, FIFOScheduler):  # type: ignore[misc]
    pass


class _Asha(_ByEpoch, AsyncHyperBandScheduler):  # type: ignore[misc]
    pass


class _Median(_ByEpoch, MedianStoppingRule):  # type: ignore[misc]
    pass


def _scheduler(search: SearchSpec, epochs: int, over: Callable[[], bool]) -> Any:
    objective, asked = search.objective[0], search.scheduler
    common = {"time_attr": EPOCH, "metric": objective.metric, "mode": objective.mode}
    grace = min(asked.grace_epochs, epochs)
    made: Any
    if asked.name == "asha":
        made = _Asha(max_t=epochs, grace_period=grace, reduction_factor=asked.reduction, **common)
    elif asked.name == "median":
        # It would pause trainings for want of others to compare with, which throws their processes away.
        made = _Median(
            grace_period=grace, min_samples_required=asked.least_samples, min_time_slice=float("inf"), **common
        )
    else:
        made = _Fifo()
    made.epochs, made.over = epochs, over
    return made
