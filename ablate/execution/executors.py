"""What runs a queue: this process, or Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from ablate.execution import watchdog
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
from ablate.execution.packing import GroupSizer
from ablate.execution.tasks import never_stopped, run_tasks
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
    if not isinstance(resources.gpus, str) and (resources.gpus or 0) > 1:
        note(f"A training uses one GPU: with --gpus-per-trial {resources.gpus:g} the others that it gets are idle.")
    if local:
        import torch

        with terminate_in_order():
            devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
            packed = resources.gpus == "auto" or 0 < (resources.gpus or 1) < 1
            if devices and resources.gpus != 0 and (len(devices) > 1 or packed):
                from ablate.execution.processes import ProcessExecutor

                yield ProcessExecutor(devices, resources, datasets, files, imports, note)
            else:
                yield LocalExecutor(resources, datasets, files, note)
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
        files: Of the storage, where it is kept how many trainings share a process well.
        note: Told what a user should know.
    """

    def __init__(
        self, resources: Resources, datasets: Mapping[str, Dataset], files: Files, note: Callable[[str], None]
    ) -> None:
        import torch

        self._threads = resources.cpus or os.cpu_count() or 1
        self._device = "cuda" if resources.gpus != 0 and torch.cuda.is_available() else "cpu"
        self._together = GroupSizer(resources, files, int(self._device == "cuda"), note)
        self._datasets = datasets
        self._note = note

    def run(self, queue: Queue, listen: Listener, stopping: EarlyStopping | None = None) -> None:
        """See `Executor`."""
        while (job := queue.next(self._together)) is not None:
            if job == "wait":
                time.sleep(WAIT_S)
                continue
            assert isinstance(job, Job)
            judged = stopping if job.judged else None
            run_watched(
                job.placed(self._threads, self._device).tasks,
                self._datasets,
                listen,
                lambda outcome: queue.ended(outcome.key, outcome),
                None if judged is None else judged.metric,
                never_stopped if judged is None else judged.should_continue,
                self._note,
            )


def run_watched(
    tasks: Sequence[Task],
    datasets: Mapping[str, Dataset],
    listen: Listener,
    ended: Callable[[Outcome], None],
    metric: str | None,
    should_continue: Callable[[str, int, float], bool],
    note: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run tasks in turn in this process, and break off what hangs.

    Args:
        tasks: As of `ablate.execution.tasks.run_tasks`, and so on up to `should_continue`.
        datasets: By name.
        listen: Called at every step.
        ended: Called once for each.
        metric: What is judged.
        should_continue: Judges.
        note: Told when one hangs.
        clock: Seconds, monotonic; a test brings its own.
    """
    watch = watchdog.Watch(clock)
    for task in tasks:
        watch.expect(task, dataset_of(task, datasets))
    watch.together([task.key for task in tasks])

    def heard(event: Event) -> None:
        watch.handle(event)
        listen(event)

    with watchdog.breaking_off(watch, [task.key for task in tasks], note):
        run_tasks(tasks, datasets, heard, ended, metric, should_continue)


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
