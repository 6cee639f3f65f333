"""Ray Tune places trainings: one Tune trial for each job, on whatever CPUs and GPUs the cluster has.

Tune schedules, retries lost processes, and stops early where it is asked to; it decides nothing else. What is next
comes from the launch's queue, through a searcher. Checkpoints and records go to our own storage, and Tune's own
experiment folder is scratch: a retried trial, or one on another node, finds its checkpoint in storage like any other
launch would. A worker whose epochs are judged reports each at once and waits for the answer: not one epoch more is
trained. The epochs that storage holds of it are reported first, whoever trained them.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ablate.core.filters import Filter
from ablate.execution import cluster
from ablate.execution.base import (
    EarlyStopping,
    Event,
    GroupSize,
    Job,
    Lease,
    Listener,
    Outcome,
    Queue,
    Resources,
    Task,
    alone,
    dataset_of,
)
from ablate.execution.crashes import how_lost
from ablate.execution.faults import fault_of
from ablate.execution.packing import GroupSizer, gpus_of
from ablate.execution.schedulers import EPOCH, StoppingScheduler
from ablate.execution.tasks import run_tasks
from ablate.execution.watchdog import LOOK_S, Watchdog
from ablate.learning.data import Dataset, dataset_name
from ablate.spaces.planned_measurement import MadeOn, PlannedMeasurement
from ablate.spaces.specs import MeasurementSpec, TrialSpec
from ablate.storage.files import Files
from ablate.storage.speeds import known_packing
from ablate.storage.storage import Storage

# isort: split
import ray
from ray import tune
from ray.tune.search import Searcher

logging.getLogger("ray.tune").setLevel(logging.ERROR)

REPORT_S = 0.1
"""A worker's events within this time go to the driver together, the last of them with the next one or the end."""

ASK_S = 0.05
"""How long the driver rests where there is nothing to give out yet: Tune asks again at once."""

PENDING = 200
"""Trials that Tune keeps ready where nothing is learnt from those before; with a searcher's own default of one, each
training would wait for its turn to be asked for."""

_PENDING_VARIABLE = "TUNE_MAX_PENDING_TRIALS_PG"


class TuneExecutor:
    """Runs jobs on the connected cluster, as many at once as fit.

    Args:
        resources: What the launch asks for.
        datasets: By name, all that jobs may need; put into the object store once.
        files: Of the storage, where measured packing is kept.
        imports: The user's own modules, imported by every worker.
        note: Told what a user should know of the cluster.

    Raises:
        UserError: A training would get more than any node of a cluster started here has.
    """

    def __init__(
        self,
        resources: Resources,
        datasets: Mapping[str, Dataset],
        files: Files,
        imports: Sequence[str],
        note: Callable[[str], None],
    ) -> None:
        self._asked = resources
        self._datasets = datasets
        self._imports = list(imports)
        wanted = resources.gpus
        self._packing = known_packing(files) if wanted == "auto" and cluster.has_gpus() else None
        # Threads change sums in their last bits, so the default hangs on the plan alone, not on what is left of it.
        gpus = (0.0 if self._packing is None else 1.0) if wanted == "auto" else wanted
        self._cpus, self._gpus = cluster.share(resources.trainings, resources.cpus, gpus, note)
        self._together = GroupSizer(resources, files, cluster.gpu_count() if self._gpus else 0, note)
        self._note = note

    def placed(self, job: Job) -> tuple[Job, float]:
        """A job with what its tasks get, and the GPUs that it takes."""
        gpus = gpus_of(job, self._packing, self._gpus)
        return job.placed(self._cpus, "cuda" if gpus else "cpu", gpus or 1.0), gpus

    def run(self, queue: Queue, listen: Listener, stopping: EarlyStopping | None = None) -> None:
        """See `Executor`."""
        together: GroupSize = self._together
        most = self._asked.max_concurrent
        if stopping is None:
            most = most and max(1, most // self._together.largest)
        elif self._together.largest > 1:
            together = alone
            self._note("Ray Tune judges whole processes, so each training of a search has one for itself.")
        adapter = QueueSearcher(self.placed, queue, listen, self._datasets, together=together)
        payload = {
            "datasets": {name: ray.put(dataset) for name, dataset in self._datasets.items()},
            "imports": self._imports,
            "folder": str(Path.cwd()),
            "metric": None if stopping is None else stopping.metric,
        }
        cpus = self._cpus  # what is told a worker travels: without this executor, whose `note` may hold a terminal
        trainable = tune.with_resources(
            tune.with_parameters(run_job, payload=payload),
            lambda config: {"cpu": cpus, "gpu": config["gpus"]},
        )
        scratch = tempfile.mkdtemp(prefix="ablate-tune-")
        try:
            with _pending(1 if stopping is not None else PENDING):
                tune.Tuner(
                    trainable,
                    tune_config=tune.TuneConfig(
                        search_alg=adapter,
                        scheduler=None if stopping is None else StoppingScheduler(stopping),
                        num_samples=-1,
                        max_concurrent_trials=most or None,
                        reuse_actors=True,
                        trial_dirname_creator=lambda trial: str(trial.trial_id),
                    ),
                    run_config=tune.RunConfig(
                        storage_path=scratch,
                        name="ablate",
                        verbose=0,
                        callbacks=[TrialRelay(adapter)],
                        failure_config=tune.FailureConfig(max_failures=self._asked.max_failures),
                    ),
                ).fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _pending(count: int) -> Iterator[None]:
    """How many trials Tune asks for before there is room for them."""
    before = os.environ.get(_PENDING_VARIABLE)
    os.environ[_PENDING_VARIABLE] = before or str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PENDING_VARIABLE]


class QueueSearcher(Searcher):  # type: ignore[misc]
    """Tune's view of the queue: a searcher whose suggestions are jobs.

    Args:
        placed: What a job's tasks get, and its GPUs.
        queue: Of the launch.
        listen: Called with every event of every training.
        datasets: By name.
        watch: Knows which trainings hang; a test brings its own.
        together: How many trainings a job may have.
    """

    def __init__(
        self,
        placed: Callable[[Job], tuple[Job, float]],
        queue: Queue,
        listen: Listener,
        datasets: Mapping[str, Dataset],
        watch: Watchdog | None = None,
        together: GroupSize = alone,
    ) -> None:
        super().__init__()
        self.together = together
        self.placed = placed
        self.queue = queue
        self.listen = listen
        self.datasets = datasets
        self.watch = watch or Watchdog()
        self.looked = -LOOK_S
        self.hung: dict[str, Outcome] = {}
        self.jobs: dict[str, Job] = {}
        self.trials: dict[str, Any] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.epochs: dict[str, int] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **_: Any) -> bool:
        """Tune's metric and mode are early stopping's business."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next job, as a trial's configuration."""
        job = self.queue.next(self.together)
        if job is None:
            return Searcher.FINISHED
        if job == "wait":
            if not self.jobs:  # else Tune waits for what they report
                time.sleep(ASK_S)
            return None
        assert isinstance(job, Job)
        placed, gpus = self.placed(job)
        self.jobs[trial_id] = placed
        self.watch.expect(placed.tasks, self.datasets)
        return {"tasks": [pack(task) for task in placed.tasks], "judged": job.judged, "gpus": gpus}

    def begin(self, trial: Any) -> None:
        """A trial's process starts, perhaps again."""
        self.trials[trial.trial_id] = trial
        for task in self._tasks(trial.trial_id):
            self.watch.begin(task.key)

    def pause(self, trial_id: str) -> None:
        """Its process was lost: nothing is expected of it until it is placed again."""
        for task in self._tasks(trial_id):
            self.watch.forget(task.key)

    def look(self) -> None:
        """Kill the workers of trainings that hang; they are not started again in this launch."""
        if time.monotonic() - self.looked < LOOK_S:
            return
        self.looked = time.monotonic()
        trials = {task.key: trial for name, trial in self.trials.items() for task in self._tasks(name)}

        def kill(key: str, reason: str) -> bool:
            actor = trials[key].temporary_state.ray_actor if key in trials else None
            if actor is not None:
                self.hung[key] = Outcome(key, "interrupted", reason)
                trials[key].max_failures = 0
                ray.kill(actor)
            return actor is not None

        self.watch.look(kill)

    def take(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """What a worker reports; an outcome is handed on at the trial's end."""
        for entry in result.get("events", ()):
            event = Event(**entry)
            self.watch.handle(event)
            self.listen(event)
        for entry in result.get("outcomes", ()):
            outcome = Outcome(**entry)
            self.watch.forget(outcome.key)
            self.outcomes[outcome.key] = outcome
        if result.get(EPOCH, 0) >= 1:
            self.epochs[trial_id] = int(result[EPOCH])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended, or was stopped early."""
        job = self.jobs.pop(trial_id, None)
        if job is None:
            return
        # The result that a scheduler stops at, and the last one, reach this before they reach callbacks.
        self.take(trial_id, {key: value for key, value in (result or {}).items() if key in (EPOCH, "outcomes")})
        trial, epoch = self.trials.pop(trial_id, None), self.epochs.pop(trial_id, 0)
        for task in job.tasks:
            self.watch.forget(task.key)
            outcome = self.outcomes.pop(task.key, None)
            if outcome is None and error:
                outcome = self.hung.pop(task.key, None) or lost(task.key, trial, task.storage)
                self.listen(Event(outcome.key, outcome.state, text=outcome.reason))  # type: ignore[arg-type]
            self.queue.ended(task.key, outcome or Outcome(task.key, "stopped", epoch=epoch))

    def _tasks(self, trial_id: str) -> tuple[Task, ...]:
        return self.jobs[trial_id].tasks if trial_id in self.jobs else ()

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what a launch knows is in storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a launch that goes on reads storage."""

    # Tune's snapshots pickle searchers and callbacks; ours hold a terminal and threads, and are never restored.
    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialRelay(tune.Callback):  # type: ignore[misc]
    """Hands on what Tune tells of its trials."""

    def __init__(self, adapter: QueueSearcher) -> None:
        self.adapter = adapter

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """It starts."""
        self.adapter.begin(trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Its process was lost."""
        self.adapter.pause(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Tune has done a round."""
        self.adapter.look()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """It reports."""
        self.adapter.take(trial.trial_id, result)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def run_job(config: dict[str, Any], payload: Mapping[str, Any]) -> None:
    """What a worker does for a trial: its job's tasks."""
    import_in_worker(payload["imports"], payload["folder"])
    tasks = [unpack(each) for each in config["tasks"]]
    metric = payload["metric"] if config["judged"] else None
    reports = Reports(tune.report, metric)
    datasets = {dataset_name(task.spec.data): dataset_of(task, payload["datasets"]) for task in tasks}
    run_tasks(
        tasks,
        {name: ray.get(reference) for name, reference in datasets.items()},
        reports.tell,
        lambda outcome: reports.send(outcomes=[asdict(outcome)]),
        metric,
        reports.should_continue,
    )


class Reports:
    """A worker's events, sent together where many come at once: each report is a round trip to the driver.

    Args:
        report: `tune.report`.
        metric: Early stopping judges epochs by it.
    """

    def __init__(self, report: Callable[[dict[str, Any]], object], metric: str | None = None) -> None:
        self._report = report
        self._metric = metric
        self._waiting: list[dict[str, Any]] = []
        self._sent = -REPORT_S

    def tell(self, event: Event) -> None:
        """Send an event: at once if the last report was a while ago or a training begins, else with the next ones."""
        self._waiting.append(asdict(event))
        # At once, by the next measurement, the outcome, or what is asked of early stopping.
        judged = self._metric is not None and event.kind == "epoch" and event.done > 0 and self._metric in event.metrics
        followed = judged or event.kind in ("measured", "finished", "failed")
        if event.kind == "started" or (not followed and time.monotonic() - self._sent >= REPORT_S):
            self.send()

    def should_continue(self, key: str, epoch: int, value: float) -> bool:
        """Have Tune's scheduler judge an epoch; where it stops the training, this does not return."""
        assert self._metric is not None
        self.send(**{"judged": key, EPOCH: epoch, self._metric: value})
        return True

    def send(self, **more: Any) -> None:
        """Send what waits.

        Args:
            more: What goes along.
        """
        self._report({"events": self._waiting, **more})
        self._waiting, self._sent = [], time.monotonic()


def import_in_worker(modules: Sequence[str], folder: str) -> None:
    """Load the user's own modules in a worker, which Tune has moved to a folder of its own.

    Args:
        modules: Their dotted names.
        folder: The working directory of the launch; a node that lacks it has a job's copy of the code in its own.
    """
    if modules:
        here = os.environ.get("TUNE_ORIG_WORKING_DIR", "")
        sys.path[:0] = [path for path in (folder, here) if path and path not in sys.path]
    for module in modules:
        importlib.import_module(module)


def _reason(error: str) -> str:
    """The line of a traceback that says what happened: its last exception, else its last line."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\w*: ", line)]
    return (named or lines or ["its process died"])[-1]


def lost(key: str, trial: Any, storage: str) -> Outcome:
    """How a Tune trial that told no outcome of its own leaves its training.

    Args:
        key: The training's.
        trial: Tune's, after its last try.
        storage: Where its log is, which says what signal ended it.

    Returns:
        Interrupted; failed only where the worker's own code raised what would come again, such as a module that is
        not there.
    """
    told = str(trial.get_error() or "")
    try:
        error = trial.get_pickled_error()
    except Exception:  # of a class that this process cannot make
        error = None
    ending = fault_of(error.cause).ending if isinstance(error, ray.exceptions.RayTaskError) else "interrupted"
    # Of a process that is gone, Ray says in 600 characters that it cannot say why.
    gone = not isinstance(error, ray.exceptions.RayTaskError) and re.search(r"(actor|worker|node) died", told)
    reason = how_lost(Storage(storage), key) if gone or not told else f"lost: {_reason(told)}"
    return Outcome(key, ending, reason)


def pack(task: Task) -> dict[str, Any]:
    """A task as plain data, which Tune writes into its own files: settings that measurements share stand once."""
    settings: dict[str, int] = {}
    measurements = []
    for each in task.measurements:
        place = settings.setdefault(each.settings.model_dump_json(), len(settings))
        seen = None if each.filter is None else list(each.filter)
        plain = {name: getattr(each, name) for name in _OF_MEASUREMENT}
        made_on = each.made_on and [each.made_on.training, each.made_on.network, each.made_on.spec.model_dump_json()]
        measurements.append({**plain, "filter": seen, "settings": place, "made_on": made_on})
    return {
        **{name: getattr(task, name) for name in _OF_TASK},
        "keep": list(task.keep),
        "lease": None if task.lease is None else asdict(task.lease),
        "spec": task.spec.model_dump_json(),
        "settings": list(settings),
        "measurements": measurements,
    }


def unpack(content: Mapping[str, Any]) -> Task:
    """The task that was packed."""
    settings = [MeasurementSpec.model_validate_json(each) for each in content["settings"]]
    measurements = tuple(
        PlannedMeasurement(
            **{
                **entry,
                "filter": None if entry["filter"] is None else Filter(*entry["filter"]),
                "settings": settings[entry["settings"]],
                "made_on": entry["made_on"] and _made_on(*entry["made_on"]),
            }
        )
        for entry in content["measurements"]
    )
    return Task(
        spec=TrialSpec.model_validate_json(content["spec"]),
        measurements=measurements,
        lease=None if content["lease"] is None else Lease(**content["lease"]),
        **{name: content[name] for name in _OF_TASK},
        keep=tuple(content["keep"]),
    )


def _made_on(training: str, network: str, spec: str) -> MadeOn:
    return MadeOn(training, network, TrialSpec.model_validate_json(spec))


_OF_TASK = tuple(each.name for each in fields(Task) if each.name not in ("spec", "measurements", "lease", "keep"))
_OF_MEASUREMENT = tuple(
    each.name for each in fields(PlannedMeasurement) if each.name not in ("filter", "settings", "made_on")
)
