"""Ray Tune places trainings: one Tune trial each, on whatever CPUs and GPUs the cluster has.

Tune schedules and retries lost processes; it decides nothing else. What to train was planned before, checkpoints and
records go to our own storage, and its own experiment folder is scratch: a retried trial, or one on another node, finds
its checkpoint in storage like any other launch would.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ablate.core.errors import UserError, first_line
from ablate.execution import head, local_ray
from ablate.execution.addresses import ray_address
from ablate.execution.base import Event, Listener, Outcome, Task
from ablate.execution.crashes import how_lost
from ablate.execution.faults import fault_of
from ablate.execution.hanging import LOOK_S, Watch
from ablate.execution.worker import run
from ablate.learning.data import Dataset
from ablate.storage.storage import Storage

# Before Ray is imported: it reads these once. Its own progress tables and signal handler would fight with ours.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # pages about each lost process, printed past all loggers

import ray
from ray import cloudpickle, tune

REPORT_S = 0.1
"""A worker's events within this time go to the driver together, the last of them with the next one or the end."""

ANSWER_S = 10.0
"""How long a cluster may take to accept a connection."""

NODE_WAIT_S = 1.0
"""How often a launch looks for the first node of a cluster that is still starting."""


@dataclass(frozen=True)
class Resources:
    """What one training gets.

    Args:
        cpus: CPU cores, and threads, of a training.
        gpus: GPUs of a training; fractions share one. By training key where they differ.
        max_concurrent: Trainings at once; 0 for as many as fit.
        max_failures: How often a lost process is started again.
    """

    cpus: int
    gpus: float | Mapping[str, float]
    max_concurrent: int = 0
    max_failures: int = 2

    def of(self, key: str) -> dict[str, float]:
        """What Ray sets aside for a training.

        Args:
            key: Of the training.
        """
        gpus = self.gpus if isinstance(self.gpus, (int, float)) else self.gpus[key]
        return {"cpu": self.cpus, "gpu": gpus}


@contextlib.contextmanager
def cluster(num_cpus: int | None = None, note: Callable[[str], None] = print) -> Iterator[None]:
    """A connection to Ray: the cluster that `RAY_ADDRESS` names, or one started here for this launch.

    Args:
        num_cpus: Of a cluster started here; None for all cores.
        note: Told that its head is gone.

    Raises:
        UserError: The cluster does not answer.
        HeadLost: Its head is gone.
    """
    if ray.is_initialized():
        with head.watching(ray.get_runtime_context().gcs_address, note):
            yield
        return
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Tune's tracebacks of lost processes: what was lost and why is told by our own lines.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    address = ray_address()
    with contextlib.ExitStack() as stack:
        check_cluster()
        # Without an address Ray would join any cluster that somebody else has started on this machine.
        options = {} if address else {**stack.enter_context(local_ray.sheltered()), "num_cpus": num_cpus}
        try:
            ray.init(logging_level="ERROR", log_to_driver=False, **options)
        except Exception as error:  # whatever keeps Ray from starting, it is told in a line
            if address is None:
                why = local_ray.why_not_started(error)
                raise UserError(
                    f"expected Ray to start on this machine, got: {why}; --local does without it"
                ) from error
            raise _unanswered(address, error) from error
        stack.callback(ray.shutdown)
        stack.enter_context(head.watching(ray.get_runtime_context().gcs_address, note))
        yield


def check_cluster() -> None:
    """Refuse a `RAY_ADDRESS` where nobody listens: Ray itself would try for a minute.

    Raises:
        UserError: Nobody answers there.
    """
    address = ray_address()
    parts = urlsplit(address if "://" in (address or "") else f"//{address or ''}")
    try:
        host, port = str(parts.hostname or ""), parts.port
    except ValueError as error:
        raise UserError(f"RAY_ADDRESS: expected an address like head:6379, got {address!r}: {error}") from error
    if address is None or not host or not port:
        return
    try:
        with socket.create_connection((host, port), timeout=ANSWER_S):
            pass
    except OSError as error:
        raise _unanswered(address, error) from error


def check_folder() -> None:
    """Refuse a temporary folder in which the Ray that a launch would start here has no room for its sockets.

    Raises:
        UserError: There is none.
    """
    if ray_address() is None and not ray.is_initialized():
        local_ray.session_folder()


def _unanswered(address: str, error: Exception) -> UserError:
    why = getattr(error, "strerror", None) or first_line(error)
    return UserError(f"RAY_ADDRESS: expected a Ray cluster at {address}, got no answer: {why}")


def share(trainings: int, cpus: int | None, gpus: float | None, say: Callable[[str], None]) -> tuple[int, float]:
    """What each training gets of the connected cluster.

    Args:
        trainings: How many there are in the plan.
        cpus: As asked for; None: an equal share, as long as a node has so many.
        gpus: As asked for; None: one where there are any.
        say: Told when this has to wait for a node.

    Returns:
        CPU cores and GPUs of one training.

    Raises:
        UserError: More than any node of a cluster started here has: it would wait for ever.
    """
    nodes = _nodes()
    if not nodes:
        say("The cluster has no node for trainings yet; waiting for the first.")
    while not nodes:
        time.sleep(NODE_WAIT_S)
        nodes = _nodes()
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) for node in nodes) else 0.0
    if cpus is None:
        fitting = [node for node in nodes if node.get("GPU", 0) >= gpus] or nodes
        # The largest node, not the cluster: a training that asks for more than a node has is never placed.
        largest = max(node["CPU"] for node in fitting)
        cpus = max(1, int(min(sum(node["CPU"] for node in nodes) // trainings, largest)))
    if not _fits(nodes, cpus, gpus):
        if ray_address() is None:
            raise _too_much(nodes, cpus, gpus)
        there = _largest(nodes)
        say(f"No node has {cpus} CPUs and {gpus:g} GPUs (the largest: {there}); waiting for the cluster to add one.")
    return cpus, gpus


def check_share(cpus: int | None, gpus: float | None) -> None:
    """Refuse what no node of the Ray that a launch would start here could place; nothing is started.

    Args:
        cpus: As asked for.
        gpus: As asked for.

    Raises:
        UserError: As of `share`.
    """
    if (cpus is None and not gpus) or ray_address() is not None:
        return
    nodes = _nodes() if ray.is_initialized() else [_this_machine()]
    if nodes and not _fits(nodes, cpus or 1, gpus or 0.0):
        raise _too_much(nodes, cpus or 1, gpus or 0.0)


def _this_machine() -> dict[str, float]:
    import torch
    from ray._private.utils import get_num_cpus

    # As many cores as Ray will count, by a container's limits too.
    return {"CPU": get_num_cpus(override_docker_cpu_warning=True), "GPU": torch.cuda.device_count()}


def _fits(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float) -> bool:
    return any(node["CPU"] >= cpus and node.get("GPU", 0) >= gpus for node in nodes)


def _largest(nodes: Sequence[Mapping[str, float]]) -> str:
    most = max(nodes, key=lambda node: (node.get("GPU", 0), node["CPU"]))
    return f"{most['CPU']:g} CPUs and {most.get('GPU', 0):g} GPUs"


def _too_much(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float) -> UserError:
    most = _largest(nodes)
    return UserError(
        f"expected --cpus-per-trial and --gpus-per-trial within this machine's {most}, got {cpus} and {gpus:g}"
    )


def has_gpus() -> bool:
    """Whether a node of the connected cluster has a GPU."""
    return any(node.get("GPU", 0) for node in _nodes())


def _nodes() -> list[dict[str, float]]:
    """Resources of the nodes that take trainings; a cluster's head often takes none."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def place(
    tasks: Sequence[Task],
    datasets: Mapping[str, Dataset],
    dataset_of: Mapping[str, str],
    resources: Resources,
    listen: Listener,
    imports: Sequence[str] = (),
) -> dict[str, Outcome]:
    """Run tasks on the connected cluster.

    Args:
        tasks: What to run, in the order to start them.
        datasets: By name; put into the object store once.
        dataset_of: Training key -> name of its data set.
        resources: What each training gets.
        listen: Called in this process with every event of every training.
        imports: The user's own modules, imported by every worker.

    Returns:
        Training key -> how it ended. What the cluster could not keep alive was interrupted, with that reason.
    """
    payload = {
        # As bytes: a worker gets the whole payload anew for each training, and opens only its own task.
        "tasks": {task.key: cloudpickle.dumps((dataset_of[task.key], task)) for task in tasks},
        "datasets": {name: ray.put(dataset) for name, dataset in datasets.items()},
        "imports": list(imports),
        "folder": str(Path.cwd()),
    }
    watch = Watch()
    for task in tasks:
        watch.expect(task, datasets[dataset_of[task.key]])
    relay = _Relay(listen, watch, {task.key: task.storage for task in tasks})
    scratch = tempfile.mkdtemp(prefix="ablate-tune-")
    trainable = tune.with_resources(
        tune.with_parameters(_trainable, payload=payload), lambda config: resources.of(config["key"])
    )
    tuner = tune.Tuner(
        trainable,
        param_space={"key": tune.grid_search([task.key for task in tasks])},
        tune_config=tune.TuneConfig(max_concurrent_trials=resources.max_concurrent or None, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=scratch,
            name="ablate",
            verbose=0,
            callbacks=[relay],
            failure_config=tune.FailureConfig(max_failures=resources.max_failures),
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for task in tasks:
        if task.key not in relay.outcomes:
            reason = f"its process was lost {resources.max_failures + 1} times"
            relay.outcomes[task.key] = relay.lost.get(task.key, Outcome(task.key, "interrupted", reason))
    return relay.outcomes


def _trainable(config: dict[str, Any], payload: Mapping[str, Any]) -> None:
    import_in_worker(payload["imports"], payload["folder"])
    name, task = cloudpickle.loads(payload["tasks"][config["key"]])
    reports = _Reports(tune.report)
    outcome = run(task, ray.get(payload["datasets"][name]), reports.tell)
    reports.send(outcome=asdict(outcome))


class _Reports:
    """A worker's events, sent together where many come at once: each report is a round trip to the driver.

    Args:
        report: `tune.report`.
    """

    def __init__(self, report: Callable[[dict[str, Any]], object]) -> None:
        self._report = report
        self._waiting: list[dict[str, Any]] = []
        self._sent = -REPORT_S

    def tell(self, event: Event) -> None:
        """Send an event: at once if the last report was a while ago or a training begins, else with the next ones."""
        self._waiting.append(asdict(event))
        followed = event.kind in ("measured", "finished", "failed")  # at once, by the next measurement or the outcome
        if event.kind == "started" or (not followed and time.monotonic() - self._sent >= REPORT_S):
            self.send()

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


class Guard:
    """Ends the workers of trainings that hang.

    Args:
        watch: Told what they tell.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.ended: dict[str, Outcome] = {}
        self._looked = 0.0

    def look(self, trials: Mapping[str, Any]) -> None:
        """Kill the worker of each training that hangs; it is not started again in this launch.

        Args:
            trials: Training key -> Tune's trial.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        for key, reason in self.watch.hung().items():
            actor = trials[key].temporary_state.ray_actor if key in trials else None
            if actor is None:
                continue
            self.ended[key] = Outcome(key, "interrupted", reason)
            self.watch.forget(key)
            trials[key].max_failures = 0
            ray.kill(actor)


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


class _Relay(tune.Callback):  # type: ignore[misc]
    """Hands what workers report to the launch's listener, and ends those that hang."""

    def __init__(self, listen: Listener, watch: Watch, storage_of: Mapping[str, str]) -> None:
        self.listen = listen
        self.guard = Guard(watch)
        self.storage_of = storage_of
        self.outcomes: dict[str, Outcome] = {}
        self.lost: dict[str, Outcome] = {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        for event in result.get("events", ()):
            self.guard.watch.handle(Event(**event))
            self.listen(Event(**event))
        if "outcome" in result:
            outcome = Outcome(**result["outcome"])
            self.guard.watch.forget(outcome.key)
            self.outcomes[outcome.key] = outcome

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        key = trial.config["key"]
        outcome = self.lost[key] = self.guard.ended.get(key) or lost(key, trial, self.storage_of[key])
        self.guard.watch.forget(key)
        self.listen(Event(key, outcome.state, text=outcome.reason))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.guard.watch.begin(trial.config["key"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.guard.watch.forget(trial.config["key"])  # until it is placed again

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        self.guard.look({trial.config["key"]: trial for trial in trials})

    # Tune's snapshots pickle its callbacks; ours holds a terminal and threads, and is never restored.
    def __getstate__(self) -> dict[str, Any]:
        return {}
