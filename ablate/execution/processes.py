"""Trainings in processes of their own on this machine's devices, without Ray: as many at once as the devices hold."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

from ablate.core.text import now_ms
from ablate.core.user_code import import_modules
from ablate.execution.base import EarlyStopping, Event, Job, Listener, Outcome, Queue, Resources, Task
from ablate.execution.crashes import how_lost
from ablate.execution.local import WAIT_S, LocalExecutor
from ablate.execution.packing import gpus_of
from ablate.execution.tasks import run_tasks
from ablate.execution.watchdog import Watchdog
from ablate.learning.data import Dataset
from ablate.storage.files import Files
from ablate.storage.speeds import known_packing
from ablate.storage.storage import Storage

CONTEXT: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")
"""Where processes come from: a fork would share what torch and CUDA have already started here."""


@dataclass
class _Process:
    """A process that runs one job after another on one device."""

    device: str
    process: Any
    pipe: Connection
    job: Job | None = None
    share: float = 0.0
    lost: int = 0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    hung: dict[str, str] = field(default_factory=dict)


class ProcessExecutor(LocalExecutor):
    """Runs jobs in processes, each on one device, next to each other where a device holds several.

    Args:
        devices: `cuda:0`, `cuda:1`, ...; a device named twice is two.
        resources: What the launch asks for; more than one GPU a training is one.
        datasets: By name.
        files: Of the storage, where measured packing is kept.
        imports: The user's own modules, imported by every process.
        note: Told what a user should know.
    """

    def __init__(
        self,
        devices: Sequence[str],
        resources: Resources,
        datasets: Mapping[str, Dataset],
        files: Files,
        imports: Sequence[str],
        note: Callable[[str], None],
    ) -> None:
        super().__init__(resources, datasets, files, note, devices)
        self._imports = list(imports)
        self._packing = known_packing(files) if resources.gpus == "auto" else None
        self._gpus = min(1.0, 1.0 if resources.gpus in (None, "auto") else float(resources.gpus or 1.0))
        self._used = [0.0] * len(devices)
        self._processes: list[_Process] = []
        self._watch = Watchdog()

    def wait(self, queue: Queue, listen: Listener, stopping: EarlyStopping | None) -> bool:
        """See `LocalExecutor`."""
        busy = [each for each in self._processes if each.job is not None]
        ready = wait([each.pipe for each in busy], WAIT_S) if busy else []
        for each in busy:
            if each.pipe in ready:
                self._hear(each, queue, listen, stopping)
        self._watch.look(self._kill)
        return bool(busy)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """See `LocalExecutor`: no process outlives the launch."""
        try:
            yield
        finally:
            for each in self._processes:
                each.process.kill()
            for each in self._processes:
                each.process.join()
                each.pipe.close()
            self._processes.clear()
            self._used = [0.0] * len(self._devices)

    def start(self, job: Job, queue: Queue, listen: Listener, stopping: EarlyStopping | None) -> bool:
        """See `LocalExecutor`: it is given to a device that holds it."""
        running = sum(len(each.job.tasks) for each in self._processes if each.job is not None)
        most = self._resources.max_concurrent
        if most and running and running + len(job.tasks) > most:
            return False
        share = gpus_of(job, self._packing, self._gpus)
        number = min(range(len(self._devices)), key=self._used.__getitem__)
        if self._used[number] + share > 1.0 + 1e-9:
            return False
        job = job.placed(self.threads(share), self._devices[number], share)
        idle = [each for each in self._processes if each.job is None and each.device == f"{number}"]
        process = idle[0] if idle else self._open(f"{number}")
        process.job, process.share, process.lost = job, share, 0
        process.outcomes.clear()
        self._used[number] += share
        self._send(process, stopping)
        return True

    def threads(self, share: float) -> int:
        """CPU threads of a process that has so much of a device, among as many as there can be at once."""
        at_once = len(self._devices) * int(1.0 / share + 1e-9)
        most = min(self._resources.trainings, self._resources.max_concurrent or at_once)
        return self._resources.cpus or max(1, (os.cpu_count() or 1) // max(1, min(at_once, most)))

    def _open(self, device: str) -> _Process:
        ours, theirs = multiprocessing.Pipe()
        process = CONTEXT.Process(target=_work, args=(theirs, self._datasets, self._imports), daemon=True)
        process.start()
        theirs.close()
        opened = _Process(device, process, ours)
        self._processes.append(opened)
        return opened

    def _send(self, process: _Process, stopping: EarlyStopping | None) -> None:
        """Have a process do what has not ended of its job."""
        assert process.job is not None
        tasks = [task for task in process.job.tasks if task.key not in process.outcomes]
        self._watch.expect(tasks, self._datasets)
        for task in tasks:
            self._watch.begin(task.key)
        judged = stopping.metric if stopping is not None and process.job.judged else None
        with contextlib.suppress(OSError):  # it is dead, which its pipe will tell
            process.pipe.send((tasks, judged))

    def _hear(self, process: _Process, queue: Queue, listen: Listener, stopping: EarlyStopping | None) -> None:
        job = process.job
        assert job is not None
        try:
            kind, content = process.pipe.recv()
        except (EOFError, OSError):
            self._lost(process, queue, listen, stopping)
            return
        if kind == "event":
            self._watch.handle(content)
            listen(content)
        elif kind == "epoch":
            key, epoch, value = content
            assert stopping is not None
            with contextlib.suppress(OSError):
                process.pipe.send(stopping.should_continue(key, epoch, value))
        else:
            self._watch.forget(content.key)
            process.outcomes[content.key] = content
            if len(process.outcomes) == len(job.tasks):
                self._free(process, queue, process.outcomes)

    def _lost(self, process: _Process, queue: Queue, listen: Listener, stopping: EarlyStopping | None) -> None:
        """A process died: its job is begun again in another one, as often as is asked for."""
        job, lost = process.job, process.lost + 1
        assert job is not None
        process.process.join()
        self._processes.remove(process)
        if lost <= self._resources.max_failures and not process.hung:
            again = self._open(process.device)
            again.job, again.share, again.lost = job, process.share, lost
            again.outcomes = process.outcomes
            self._send(again, stopping)
            return
        outcomes = dict(process.outcomes)
        for task in job.tasks:
            self._watch.forget(task.key)
            if task.key not in outcomes:
                reason = process.hung.get(task.key) or how_lost(Storage(task.storage), task.key)
                outcomes[task.key] = Outcome(task.key, "interrupted", reason)
                listen(Event(task.key, "interrupted", text=reason, timestamp_ms=now_ms()))
        self._free(process, queue, outcomes)

    def _free(self, process: _Process, queue: Queue, outcomes: Mapping[str, Outcome]) -> None:
        job = process.job
        assert job is not None
        process.job = None
        self._used[int(process.device)] = max(0.0, self._used[int(process.device)] - process.share)
        for task in job.tasks:
            queue.ended(task.key, outcomes[task.key])

    def _kill(self, key: str, reason: str) -> bool:
        """Kill the process of a training that hangs; it is not begun again in this launch."""
        for each in self._processes:
            if each.job is not None and any(task.key == key for task in each.job.tasks):
                each.hung[key] = reason
                each.process.kill()
                return True
        return False


def _work(pipe: Connection, datasets: Mapping[str, Dataset], imports: list[str]) -> None:
    """What a process does: jobs, one after the other, until its launch is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its launch ends it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import_modules(imports)
    with contextlib.suppress(EOFError, OSError):
        while True:
            tasks, metric = pipe.recv()
            _run(pipe, tasks, datasets, metric)


def _run(pipe: Connection, tasks: Sequence[Task], datasets: Mapping[str, Dataset], metric: str | None) -> None:
    def should_continue(key: str, epoch: int, value: float) -> bool:
        pipe.send(("epoch", (key, epoch, value)))
        return bool(pipe.recv())

    run_tasks(
        tasks,
        datasets,
        lambda event: pipe.send(("event", event)),
        lambda outcome: pipe.send(("outcome", outcome)),
        metric,
        should_continue,
    )
