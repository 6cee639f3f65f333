"""Ray Tune's schedulers judge epochs, whatever runs the trainings; and Tune asks early stopping as its scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ablate.execution import cluster  # noqa: F401  what Ray reads from the environment is set before it is imported
from ablate.execution.base import EarlyStopping
from ablate.execution.early_stopping import TimeLimit
from ablate.spaces.search import SearchSpec

# isort: split
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

EPOCH = "epoch"


class TuneEarlyStopping(TimeLimit):
    """Ray Tune's scheduler, asked about the epochs of trainings, and shown those that have ended.

    Args:
        search: Which scheduler, for which objective.
        epochs: Of a whole training. The last epoch is never judged: the training is done, only measuring is left.
        over: Whether the search's time is up; then every training stops.
    """

    def __init__(self, search: SearchSpec, epochs: int, over: Callable[[], bool] = lambda: False) -> None:
        super().__init__(search.objective[0].metric, epochs, over)
        self._scheduler = _scheduler(search, epochs)
        self._trials: dict[str, _Replayed] = {}
        self._answers: dict[tuple[str, int], bool] = {}

    def should_continue(self, key: str, epoch: int, value: float) -> bool:
        """Whether a training goes on after an epoch.

        Args:
            key: Of the training.
            epoch: From 1, ascending; again from 1 where its process was lost, and then it is answered as before.
            value: Of the first objective.
        """
        if (key, epoch) not in self._answers:
            self._answers[key, epoch] = self._ask(key, epoch, value) or epoch >= self._epochs
        return self._answers[key, epoch] and super().should_continue(key, epoch, value)

    def _ask(self, key: str, epoch: int, value: float) -> bool:
        trial = self._trials.get(key)
        if trial is None:
            trial = self._trials[key] = _Replayed(key)
            self._scheduler.on_trial_add(None, trial)
        answer = self._scheduler.on_trial_result(None, trial, {EPOCH: epoch, self.metric: value})
        return bool(answer != TrialScheduler.STOP)

    def replay(self, key: str, curve: Mapping[int, float]) -> None:
        """Show the scheduler a training that has ended, so that others are compared with it."""
        for epoch, value in sorted(curve.items()):
            self.should_continue(key, epoch, value)


class StoppingScheduler(FIFOScheduler):  # type: ignore[misc]
    """Tune's view of early stopping: a scheduler that asks it about the epochs that workers report."""

    def __init__(self, stopping: EarlyStopping) -> None:
        super().__init__()
        self.stopping = stopping

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """A worker waits for the answer where it reports an epoch."""
        epoch, value = result.get(EPOCH), result.get(self.stopping.metric)
        goes_on = epoch is None or value is None or self.stopping.should_continue(result["judged"], epoch, value)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Replayed:
    """As much of a Tune trial as schedulers look at."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def _scheduler(search: SearchSpec, epochs: int) -> Any:
    objective, asked = search.objective[0], search.scheduler
    grace = min(asked.grace_epochs, epochs)
    common = {"time_attr": EPOCH, "metric": objective.metric, "mode": objective.mode, "grace_period": grace}
    if asked.name == "asha":
        return AsyncHyperBandScheduler(max_t=epochs, reduction_factor=asked.reduction, **common)
    # It would pause trainings for want of others to compare with, which throws their processes away.
    return MedianStoppingRule(min_samples_required=asked.least_samples, min_time_slice=float("inf"), **common)
