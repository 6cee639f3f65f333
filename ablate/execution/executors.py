"""What runs a queue: this process, or Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from ablate.core.text import now_ms
from ablate.execution import hanging
from ablate.execution.base import (
    EarlyStopping,
    Event,
    Executor,
    Job,
    Listener,
    Outcome,
    Queue,
    Resources,
    Task,
    dataset_of,
)
from ablate.execution.judging import run_judged
from ablate.execution.worker import run
from ablate.learning.data import Dataset
from ablate.storage.files import Files

WAIT_S = 1.0
"""How often a queue that waits is asked again."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: end in order, keep everything."""


@contextlib.contextmanager
def open_executor(
    local: bool,
    resources: Resources,
    datasets: Mapping[str, Dataset],
    files: Files,
    imports: Sequence[str],
    note: Callable[[str], None],
) -> Iterator[Executor]:
    """The executor that a launch asked for; SIGTERM ends it as Ctrl-C does.

    Args:
        local: In this process, without Ray.
        resources: What the launch asks for.
        datasets: By name, all that jobs may need.
        files: Of the storage, where measured packing is kept.
        imports: The user's own modules, for workers.
        note: Told what a user should know.

    Yields:
        The executor.
    """
    if local:
        import torch

        with terminate_in_order():
            devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
            packed = resources.gpus == "auto" or 0 < (resources.gpus or 1) < 1
            if devices and resources.gpus != 0 and (len(devices) > 1 or packed):
                from ablate.execution.processes import ProcessExecutor

                yield ProcessExecutor(devices, resources, datasets, files, imports, note)
            else:
                yield LocalExecutor(resources, datasets, note)
        return
    from ablate.execution import cluster, tune

    with cluster.cluster(note=note):
        executor = tune.TuneExecutor(resources, datasets, files, imports, note)
        with terminate_in_order():  # after ray.init, which owns SIGTERM until then
            yield executor


class LocalExecutor:
    """Runs jobs in this process, one after the other.

    Args:
        resources: What the launch asks for.
        datasets: By name.
        note: Told of trainings that hang.
    """

    def __init__(self, resources: Resources, datasets: Mapping[str, Dataset], note: Callable[[str], None]) -> None:
        import torch

        self._threads = resources.cpus or os.cpu_count() or 1
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._datasets = datasets
        self._note = note

    def run(self, queue: Queue, listen: Listener, stopping: EarlyStopping | None = None) -> None:
        """See `Executor`."""
        while (job := queue.next()) is not None:
            if job == "wait":
                time.sleep(WAIT_S)
                continue
            assert isinstance(job, Job)
            for task in job.placed(self._threads, self._device).tasks:
                queue.ended(task.key, self._run(task, listen, stopping if job.judged else None))

    def _run(self, task: Task, listen: Listener, stopping: EarlyStopping | None) -> Outcome:
        def should_continue(epoch: int, value: float) -> bool:
            return stopping is None or stopping.should_continue(task.key, epoch, value)

        return run_judged(
            task,
            lambda heard: run_watched(task, dataset_of(task, self._datasets), heard, self._note),
            listen,
            None if stopping is None else stopping.metric,
            should_continue,
        )


def run_watched(
    task: Task,
    dataset: Dataset,
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
        listen(Event(task.key, "interrupted", text=str(error), timestamp_ms=now_ms()))
        return Outcome(task.key, "interrupted", str(error))


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
