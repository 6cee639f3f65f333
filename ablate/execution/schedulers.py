"""Ray Tune runs a search: its schedulers decide what is stopped, its controller places what is trained.

The searcher is ours (`ablate.planning.search`), so that nothing of it hangs on Tune's own files; Tune asks it for one
sample at a time. A worker reports an epoch and waits for the scheduler's answer: not one epoch more is trained. The
epochs that storage holds of a sample are reported first, whoever trained them.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ablate.execution.base import Event, Listener, Outcome, Task
from ablate.execution.hanging import Watch
from ablate.execution.tune import Guard, Resources, import_in_worker, lost
from ablate.execution.worker import run
from ablate.learning.data import Dataset
from ablate.spaces.search import SearchSpec
from ablate.spaces.specs import MeasurementSpec, PlannedMeasurement, TrialSpec
from ablate.storage.storage import Storage

# isort: split
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

logging.getLogger("ray.tune").setLevel(logging.ERROR)
# Workers report more than epochs; what is none is not judged.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")

EPOCH = "epoch"


@dataclass(frozen=True)
class Job:
    """A sample to be trained.

    Args:
        number: Of the sample.
        task: What a worker is asked to do.
        judged: Whether the scheduler may stop it; False where only measurements are left.
    """

    number: int
    task: Task
    judged: bool = True


class Jobs(Protocol):
    """What gives out samples, and learns how they end; in the launch's own process."""

    def next(self) -> Job | Literal["wait"] | None:
        """The next sample; `wait` where there may be one later, None at the end."""

    def ended(self, number: int, outcome: Outcome | None, epoch: int) -> None:
        """A sample has ended; without an outcome it was stopped early, after the epoch."""


class EarlyStopping:
    """Ray Tune's scheduler, asked about epochs in this process: for local searches, and for what is replayed.

    Args:
        search: Which scheduler, for which objective.
        epochs: Of a whole training. The last epoch is never judged: the training is done, only measuring is left.
        over: Whether the search's time is up; then every training stops.
    """

    def __init__(self, search: SearchSpec, epochs: int, over: Callable[[], bool] = lambda: False) -> None:
        self.metric = search.objective[0].metric
        self.scheduler = _scheduler(search, epochs, over)
        self._trials: dict[int, _Replayed] = {}

    def should_continue(self, number: int, epoch: int, value: float) -> bool:
        """Whether a sample goes on after an epoch.

        Args:
            number: Of the sample.
            epoch: From 1, ascending.
            value: Of the first objective.

        Returns:
            The scheduler's answer.
        """
        trial = self._trials.get(number)
        if trial is None:
            trial = self._trials[number] = _Replayed(f"sample-{number}")
            self.scheduler.on_trial_add(None, trial)
        answer = self.scheduler.on_trial_result(None, trial, {EPOCH: epoch, self.metric: value})
        return bool(answer != TrialScheduler.STOP)

    def replay(self, number: int, curve: Mapping[int, float]) -> None:
        """Show the scheduler a sample that has ended, so that others are compared with it."""
        for epoch, value in sorted(curve.items()):
            self.should_continue(number, epoch, value)


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


def run_search(
    jobs: Jobs,
    judge: EarlyStopping,
    dataset: Dataset,
    resources: Resources,
    listen: Listener,
    imports: list[str],
) -> None:
    """Run samples on the connected cluster until there are no more.

    Args:
        jobs: Gives them out.
        judge: With the scheduler, which has seen what has ended before.
        dataset: What all of them are trained on.
        resources: What each training gets.
        listen: Called in this process with every event of every training.
        imports: The user's own modules, imported by every worker.
    """
    adapter = _Adapter(jobs, listen, dataset)
    scratch = tempfile.mkdtemp(prefix="ablate-tune-")
    trainable = tune.with_resources(
        tune.with_parameters(
            _sample, dataset=dataset, imports=list(imports), folder=str(Path.cwd()), metric=judge.metric
        ),
        resources.of(""),  # every sample gets the same
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=adapter,
            scheduler=judge.scheduler,
            num_samples=-1,
            max_concurrent_trials=resources.max_concurrent or None,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            storage_path=scratch,
            name="ablate",
            verbose=0,
            callbacks=[_Relay(adapter)],
            failure_config=tune.FailureConfig(max_failures=resources.max_failures),
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Adapter(Searcher):  # type: ignore[misc]
    """Tune's view of our searcher."""

    def __init__(self, jobs: Jobs, listen: Listener, dataset: Dataset) -> None:
        super().__init__()
        self.jobs = jobs
        self.listen = listen
        self.dataset = dataset
        self.guard = Guard(Watch())
        self.running: dict[str, Job] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.trials: dict[str, Any] = {}
        self.epochs: dict[str, int] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **_: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        job = self.jobs.next()
        if job is None:
            return Searcher.FINISHED
        if job == "wait":
            time.sleep(0.05)  # Tune asks again at once
            return None
        assert isinstance(job, Job)
        self.running[trial_id] = job
        self.guard.watch.expect(job.task, self.dataset)
        return {"task": _packed(job.task), "judged": job.judged}

    def take(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if "event" in result:
            self.guard.watch.handle(Event(**result["event"]))
            self.listen(Event(**result["event"]))
        if "outcome" in result:
            self.outcomes[trial_id] = Outcome(**result["outcome"])
        if result.get(EPOCH, 0) >= 1:
            self.epochs[trial_id] = int(result[EPOCH])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        job = self.running.pop(trial_id, None)
        if job is None:
            return
        # The result that a scheduler stops at reaches this before it reaches callbacks.
        self.take(trial_id, {key: value for key, value in (result or {}).items() if key in (EPOCH, "outcome")})
        self.guard.watch.forget(job.task.key)
        outcome = self.outcomes.pop(trial_id, None)
        if outcome is None and error:
            outcome = self.guard.ended.get(job.task.key) or lost(job.task.key, self.trials[trial_id], job.task.storage)
            self.listen(Event(outcome.key, outcome.state, text=outcome.reason))
        self.jobs.ended(job.number, outcome, self.epochs.pop(trial_id, 0))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the search's state is in storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a search that goes on reads storage."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Relay(tune.Callback):  # type: ignore[misc]
    def __init__(self, adapter: _Adapter) -> None:
        self.adapter = adapter

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.adapter.trials[trial.trial_id] = trial
        if trial.trial_id in self.adapter.running:
            self.adapter.guard.watch.begin(self.adapter.running[trial.trial_id].task.key)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if trial.trial_id in self.adapter.running:  # until it is placed again
            self.adapter.guard.watch.forget(self.adapter.running[trial.trial_id].task.key)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        running = self.adapter.running.items()
        self.adapter.guard.look(
            {job.task.key: self.adapter.trials[name] for name, job in running if name in self.adapter.trials}
        )

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self.adapter.take(trial.trial_id, result)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _sample(config: dict[str, Any], dataset: Dataset, imports: list[str], folder: str, metric: str) -> None:
    import_in_worker(imports, folder)
    task = _unpacked(config["task"])
    if config["judged"]:
        for entry in Storage(task.storage).history(task.key):
            if entry["epoch"] >= 1 and metric in entry["metrics"]:
                tune.report({EPOCH: entry["epoch"], metric: entry["metrics"][metric]})

    def listen(event: Event) -> None:
        report: dict[str, Any] = {"event": asdict(event)}
        if config["judged"] and event.kind == "epoch" and metric in event.metrics:
            report |= {EPOCH: event.done, metric: event.metrics[metric]}
        tune.report(report)

    outcome = run(task, dataset, listen)
    tune.report({"outcome": asdict(outcome)})


def _packed(task: Task) -> dict[str, Any]:
    """A task as plain data, which Tune may write into its own files."""
    return {
        **{name: getattr(task, name) for name in ("key", "storage", "threads", "device", "gpu_share", "lease")},
        "spec": task.spec.model_dump_json(),
        "measurements": [
            {**asdict(measurement), "settings": measurement.settings.model_dump_json()}
            for measurement in task.measurements
        ],
    }


def _unpacked(content: Mapping[str, Any]) -> Task:
    measurements = tuple(
        PlannedMeasurement(**{**entry, "settings": MeasurementSpec.model_validate_json(entry["settings"])})
        for entry in content["measurements"]
    )
    spec = TrialSpec.model_validate_json(content["spec"])
    names = ("storage", "threads", "device", "gpu_share", "lease")
    return Task(content["key"], spec, measurements, *(content[name] for name in names))
