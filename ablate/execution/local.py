"""Jobs on this machine without Ray: the one loop over a queue, and this process as what runs them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence

from ablate.execution.base import EarlyStopping, Event, Job, Listener, Outcome, Queue, Resources, Task
from ablate.execution.packing import GroupSizer
from ablate.execution.tasks import never_stopped, run_tasks
from ablate.execution.watchdog import Watchdog, breaking_off
from ablate.learning.data import Dataset
from ablate.storage.files import Files

WAIT_S = 1.0
"""How often a queue that waits is asked again."""


class LocalExecutor:
    """Runs jobs in this process, one after the other; those who run them elsewhere start and wait in another way.

    Args:
        resources: What the launch asks for.
        datasets: By name.
        files: Of the storage, where it is kept how many trainings share a process well.
        note: Told what a user should know.
        devices: What jobs run on; none: this process's own.
    """

    def __init__(
        self,
        resources: Resources,
        datasets: Mapping[str, Dataset],
        files: Files,
        note: Callable[[str], None],
        devices: Sequence[str] = (),
    ) -> None:
        import torch

        self._resources = resources
        self._devices = list(devices) or ["cuda" if resources.gpus != 0 and torch.cuda.is_available() else "cpu"]
        self._together = GroupSizer(resources, files, len(devices) or self._devices.count("cuda"), note)
        self._datasets = dict(datasets)
        self._note = note

    def run(self, queue: Queue, listen: Listener, stopping: EarlyStopping | None = None) -> None:
        """See `Executor`."""
        held: Job | None = None
        with self.opened():
            while True:
                job = held or queue.next(self._together)
                held = None
                if isinstance(job, Job):
                    if self.start(job, queue, listen, stopping):
                        continue
                    held = job
                if not self.wait(queue, listen, stopping):
                    if job is None:
                        return
                    time.sleep(WAIT_S)

    def opened(self) -> contextlib.AbstractContextManager[None]:
        """Around a run."""
        return contextlib.nullcontext()

    def start(self, job: Job, queue: Queue, listen: Listener, stopping: EarlyStopping | None) -> bool:
        """Begin a job; False where there is no room for it now. Here it has ended then."""
        judged = stopping if job.judged else None
        run_watched(
            job.placed(self._resources.cpus or os.cpu_count() or 1, self._devices[0]).tasks,
            self._datasets,
            listen,
            lambda outcome: queue.ended(outcome.key, outcome),
            None if judged is None else judged.metric,
            never_stopped if judged is None else judged.should_continue,
            self._note,
        )
        return True

    def wait(self, queue: Queue, listen: Listener, stopping: EarlyStopping | None) -> bool:
        """Hear what jobs tell, and end what hangs; False where none is running."""
        return False


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
    watch = Watchdog(clock)
    watch.expect(tasks, datasets)

    def heard(event: Event) -> None:
        watch.handle(event)
        listen(event)

    with breaking_off(watch, [task.key for task in tasks], note):
        run_tasks(tasks, datasets, heard, ended, metric, should_continue)
