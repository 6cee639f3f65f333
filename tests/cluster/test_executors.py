"""What every executor keeps to: each task ends once, and stopped, held and joined ones end as they should."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

import pytest
from rich.console import Console

from ablate.execution import processes
from ablate.execution.base import Event, Executor, GroupSize, Job, Lease, Outcome, Resources, Task, alone
from ablate.execution.early_stopping import TimeLimit
from ablate.execution.executors import open_executor
from ablate.execution.processes import ProcessExecutor
from ablate.learning import data
from ablate.planning.plan import Plan
from ablate.storage.leases import Leases
from ablate.storage.storage import Storage
from tests.support.launches import LOADED
from tests.support.tasks import planned

pytestmark = pytest.mark.cluster

say = Console(file=io.StringIO()).print
"""As of a launch: it cannot travel to a worker."""

Opened = Callable[[Plan, Path], AbstractContextManager[Executor]]


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are forked from one that has PyTorch loaded, and not CUDA, which saves seconds of a core for each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LOADED))
    monkeypatch.setattr(processes, "CONTEXT", context)


class Jobs:
    """A queue of given jobs."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs: list[Job | Literal["wait"]] = ["wait", *jobs]
        self.outcomes: list[Outcome] = []

    def next(self, together: GroupSize = alone) -> Job | Literal["wait"] | None:
        return self.jobs.pop(0) if self.jobs else None

    def ended(self, key: str, outcome: Outcome) -> None:
        assert outcome.key == key
        self.outcomes.append(outcome)


@pytest.fixture(params=["local", "processes", "tune"])
def opened(request: pytest.FixtureRequest) -> Opened:
    if request.param == "tune":
        request.getfixturevalue("on_cluster")

    @contextmanager
    def open_(plan: Plan, folder: Path) -> Iterator[Executor]:
        specs = [training.spec.data for training in plan.trainings.values()]
        loaded = {data.dataset_name(spec): data.load(spec, folder) for spec in specs}
        files = Storage(str(folder / "storage")).files
        if request.param == "processes":
            yield ProcessExecutor(["cpu", "cpu"], Resources(2, cpus=1), loaded, files, [], say)
            return
        with open_executor(request.param == "local", Resources(2, cpus=1), loaded, files, [], say) as executor:
            yield executor

    return open_


def tasks_of(plan: Plan, folder: Path, lease: Lease | None = None) -> list[Task]:
    place = str(folder / "storage")
    return [
        Task(training.key, training.spec, tuple(training.measurements.values()), place, lease=lease)
        for training in plan.trainings.values()
    ]


def test_each_task_of_each_job_ends_once_with_its_events_in_order(opened: Opened, tmp_path: Path) -> None:
    plan = planned(tmp_path)
    tasks = tasks_of(plan, tmp_path)
    assert len(tasks) == 2
    queue, events = Jobs(Job(tuple(tasks))), list[Event]()
    with opened(plan, tmp_path) as executor:
        executor.run(queue, events.append)
        executor.run(Jobs(), events.append)  # nothing to do is no harm
    assert queue.outcomes == [Outcome(task.key, "finished") for task in tasks]
    for task in tasks:
        kinds = [event.kind for event in events if event.key == task.key]
        assert kinds[0] == "started" and kinds[-1] == "finished" and "measured" in kinds
        view = Storage(task.storage).view(task.key)
        assert view.finished and {each.key for each in task.measurements} <= view.records.keys()


def test_what_is_judged_stops_at_once_and_what_is_not_goes_on(opened: Opened, tmp_path: Path) -> None:
    plan = planned(tmp_path, "training.epochs=3", "data.validation=0.2", "measurement.attacks=[natural]")
    first, second = tasks_of(plan, tmp_path)
    stopping = TimeLimit("validation/natural", 3, over=lambda: True)
    queue, events = Jobs(Job((first,), judged=True), Job((second,))), list[Event]()
    with opened(plan, tmp_path) as executor:
        executor.run(queue, events.append, stopping)
    assert sorted(queue.outcomes, key=lambda each: each.state) == [
        Outcome(second.key, "finished"),
        Outcome(first.key, "stopped", epoch=1),
    ]
    assert max(event.done for event in events if event.key == first.key and event.kind == "epoch") == 1
    assert Storage(first.storage).view(first.key).epoch == 1


def test_what_another_launch_holds_is_not_begun(opened: Opened, tmp_path: Path) -> None:
    plan = planned(tmp_path)
    files = Storage(str(tmp_path / "storage")).files
    mine, other = Leases(files), Leases(files)
    for each in (mine, other):
        each.beat()
    held, free = tasks_of(plan, tmp_path, Lease(mine.owner))
    assert other.acquire(held.key)
    queue = Jobs(Job((held,)), Job((free,)))
    with opened(plan, tmp_path) as executor:
        executor.run(queue, lambda event: None)
    assert {outcome.key: outcome.state for outcome in queue.outcomes} == {held.key: "not_mine", free.key: "finished"}
    assert not Storage(held.storage).view(held.key).attempts
    assert not mine.taken(free.key)  # given back


def test_a_failure_is_an_outcome(opened: Opened, tmp_path: Path) -> None:
    plan = planned(tmp_path, "training.learning_rate=1e30", "training.epochs=2")
    task = tasks_of(plan, tmp_path)[0]
    queue = Jobs(Job((task,)))
    with opened(plan, tmp_path) as executor:
        executor.run(queue, lambda event: None)
    [outcome] = queue.outcomes
    assert outcome.state == "failed" and outcome.reason
    failure = Storage(task.storage).view(task.key).failure
    assert failure is not None and failure["reason"] == outcome.reason


@pytest.mark.parametrize("together", [False, True])
def test_processes_share_devices_and_a_lost_one_is_begun_again(tmp_path: Path, together: bool) -> None:
    plan = planned(tmp_path, "training.epochs=3")
    loaded = {
        data.dataset_name(training.spec.data): data.load(training.spec.data, tmp_path)
        for training in plan.trainings.values()
    }
    files = Storage(str(tmp_path / "storage")).files
    executor = ProcessExecutor(["cpu"], Resources(2, cpus=1, gpus=0.5), loaded, files, [], say)
    tasks = tasks_of(plan, tmp_path)
    groups = [tuple(tasks)] if together else [(task,) for task in tasks]
    queue = Jobs(*(Job(group, judged=True) for group in groups))
    started, killed = list[str](), list[str]()

    class Kills:
        metric = "train/loss"

        def should_continue(self, key: str, epoch: int, value: float) -> bool:
            if not killed:  # its process waits for the answer
                killed.append(key)
                for process in multiprocessing.active_children():
                    process.kill()
            return True

    def listen(event: Event) -> None:
        if event.kind == "started" and not event.text:
            started.append(event.key)

    executor.run(queue, listen, Kills())
    assert {outcome.key: outcome.state for outcome in queue.outcomes} == {task.key: "finished" for task in tasks}
    assert started.count(killed[0]) == 2 and set(started) == {task.key for task in tasks}
    assert not multiprocessing.active_children()
