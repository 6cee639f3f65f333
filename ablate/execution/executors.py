"""What runs trainings: this process, or Ray; opened only where there is something to run."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import FrameType

from ablate.core.text import plural
from ablate.execution import hanging
from ablate.execution.base import Event, Listener, Outcome, Task
from ablate.execution.worker import run
from ablate.launch.options import Options
from ablate.learning import data
from ablate.planning.plan import PlannedTraining
from ablate.spaces.specs import TrialSpec
from ablate.storage.storage import Storage

Engine = Callable[[Sequence[PlannedTraining], Listener], dict[str, Outcome]]
"""Runs trainings to their end, and says how each ended, by key."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: end in order, keep everything."""


class Datasets:
    """Data sets by name, each loaded once, when it is wanted.

    Args:
        root: Where downloaded data lie.
    """

    def __init__(self, root: object) -> None:
        self._root = root
        self._loaded: dict[str, data.Dataset] = {}

    def name(self, spec: TrialSpec) -> str:
        """What tells the data sets of trials apart."""
        return f"{spec.data.name}-{spec.data.image_size}-{spec.data.root or ''}"

    def of(self, spec: TrialSpec) -> data.Dataset:
        """The data set of a trial."""
        name = self.name(spec)
        if name not in self._loaded:
            self._loaded[name] = data.load(spec.data, self._root)  # type: ignore[arg-type]
        return self._loaded[name]


def task_of(training: PlannedTraining, storage: Storage, threads: int, device: str, lease: int | None = None) -> Task:
    """What a worker is asked to do about a planned training."""
    measurements = tuple(training.measurements.values())
    return Task(training.key, training.spec, measurements, storage.location, threads, device, lease=lease)


def local_resources(options: Options) -> tuple[int, str]:
    """Threads and device of trainings in this process."""
    import torch

    return options.cpus_per_trial or os.cpu_count() or 1, "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def open_engine(
    options: Options,
    storage: Storage,
    datasets: Datasets,
    count: int,
    note: Callable[[str], None],
    lease_of: Callable[[str], int | None] = lambda key: None,
) -> Iterator[Engine]:
    """The engine that a launch asked for.

    Args:
        options: Of the launch.
        storage: Where its results go.
        datasets: What its trainings are trained on.
        count: How many trainings the whole plan has.
        note: Told what a user should know of the cluster.
        lease_of: Training key -> the number of the launch's lease on it.

    Yields:
        The engine; SIGTERM ends it as Ctrl-C does.
    """
    if options.local:
        threads, device = local_resources(options)

        def here(trainings: Sequence[PlannedTraining], listen: Listener) -> dict[str, Outcome]:
            tasks = [task_of(training, storage, threads, device, lease_of(training.key)) for training in trainings]
            return {task.key: run_watched(task, datasets.of(task.spec), listen, note) for task in tasks}

        with terminate_in_order():
            yield here
        return
    from ablate.execution import tune
    from ablate.execution.packing import gpu_share
    from ablate.storage.speeds import known_packing

    with tune.cluster(note=note):
        wanted = options.gpus_per_trial
        packed = wanted == "auto" and tune.has_gpus()
        # Threads change sums in their last bits, so the default hangs on the plan alone, not on what is left of it.
        cpus, gpus = tune.share(
            count, options.cpus_per_trial, (1.0 if packed else 0.0) if wanted == "auto" else wanted, note
        )

        def placed(
            trainings: Sequence[PlannedTraining], shares: Mapping[str, float], listen: Listener
        ) -> dict[str, Outcome]:
            tasks = [
                replace(
                    task_of(training, storage, cpus, "cuda" if gpus else "cpu", lease_of(training.key)),
                    gpu_share=shares[training.key] or 1.0,
                )
                for training in trainings
            ]
            names = {task.key: datasets.name(task.spec) for task in tasks}
            loaded = {datasets.name(task.spec): datasets.of(task.spec) for task in tasks}
            resources = tune.Resources(cpus, shares, options.max_concurrent, options.max_failures)
            return tune.place(tasks, loaded, names, resources, listen, options.imports)

        def on_ray(trainings: Sequence[PlannedTraining], listen: Listener) -> dict[str, Outcome]:
            packing = known_packing(storage.files) if packed else {}
            shares = {t.key: gpu_share(t.spec, packing) if packed else gpus for t in trainings}
            return in_two_waves(placed, trainings, shares, listen, note)

        with terminate_in_order():  # after ray.init, which owns SIGTERM until then
            yield on_ray


def run_watched(
    task: Task,
    dataset: data.Dataset,
    listen: Listener,
    note: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Run a task in this process, and break it off when it hangs.

    Args:
        task: What to do.
        dataset: The images.
        listen: As of `ablate.execution.worker.run`.
        note: Told when it hangs.
        clock: Seconds, monotonic; a test brings its own.

    Returns:
        How it ended.
    """
    watch = hanging.Watch(clock)
    watch.expect(task, dataset)

    def heard(event: Event) -> None:
        watch.handle(event)
        listen(event)

    try:
        with hanging.breaking_off(watch, task.key, note):
            return run(task, dataset, heard)
    except hanging.Hung as error:
        listen(Event(task.key, "interrupted", text=str(error), timestamp_ms=time.time_ns() // 1_000_000))
        return Outcome(task.key, "interrupted", str(error))


def in_two_waves(
    placed: Callable[[Sequence[PlannedTraining], Mapping[str, float], Listener], dict[str, Outcome]],
    trainings: Sequence[PlannedTraining],
    shares: Mapping[str, float],
    listen: Listener,
    note: Callable[[str], None],
) -> dict[str, Outcome]:
    """Run trainings, and what ran out of memory in its part of a GPU once more with a whole one.

    Args:
        placed: Runs trainings with the GPUs that each gets.
        trainings: What to run.
        shares: Training key -> GPUs.
        listen: As of an `Engine`.
        note: Told that there is a second wave.

    Returns:
        How each ended; with a whole GPU, running out of memory is a failure.
    """
    outcomes = placed(trainings, shares, listen)
    again = [t for t in trainings if t.key in outcomes and outcomes[t.key].needs_more_memory]
    if again:
        note(f"{plural(len(again), 'training')} ran out of memory in a part of a GPU; once more with a whole one.")
        outcomes |= placed(again, {training.key: 1.0 for training in again}, listen)
    return outcomes


@contextlib.contextmanager
def terminate_in_order() -> Iterator[None]:
    """SIGTERM (preemption) ends a launch as Ctrl-C does."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: a notebook's or a test's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
