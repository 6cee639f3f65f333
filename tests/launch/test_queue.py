"""The one queue: what is next, what is done when it ends, and whose it is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ablate.execution.base import Job, Outcome
from ablate.execution.local import LocalExecutor
from ablate.launch.queue import WAIT_S, TrainingQueue
from ablate.launch.request import Request
from ablate.launch.sources import Rows, Samples
from ablate.planning.datasets import load_for
from ablate.planning.plan import PlannedTraining
from ablate.storage import leases
from ablate.storage.leases import Leases
from ablate.storage.storage import Storage
from tests.support.helpers import BATCH, options_of, write_space
from tests.support.search_helpers import write_search


class World:
    """A launch's queue without anything that runs it."""

    def __init__(self, folder: Path, search: bool = False, more: str = "", **changes: Any) -> None:
        self.options = options_of(folder, **changes)
        if search:
            self.options.space = [str(write_search(folder, samples=2, scheduler="fifo"))]
        else:
            path = write_space(folder, epochs=1)
            path.write_text(path.read_text() + more)
        self.storage = Storage(self.options.storage)
        self.subject: Any = Request.read(self.options).subject(self.storage)
        self.leases = Leases(self.storage.files)
        self.leases.beat()
        self.notes: list[str] = []
        self.waits: list[str] = []
        self.now = 0.0
        self.progress = self
        self.provenance: dict[str, str] = {}
        self.sync = None
        self.console: Any = None
        self.subject.prepare(self)
        self.subject.decide(self.storage, self.options)
        self.subject.begin(self)
        self.queue = TrainingQueue(
            self.subject,
            self.subject.plan,
            self.storage,
            self.leases,
            retry_failed=self.options.retry_failed,
            note=self.notes.append,
            waiting=self.waits.extend,
            clock=lambda: self.now,
        )

    def follow(self, key: str) -> None:
        """As a progress."""

    def note(self, text: str) -> None:
        """As a progress."""

    def admit(self, training: PlannedTraining) -> None:
        """As a session."""
        self.storage.describe(training.key, training.identity)

    def keep_plan(self) -> None:
        """As a session."""

    def job(self) -> Job:
        """The next one."""
        job = self.queue.next()
        assert isinstance(job, Job)
        return job


@pytest.mark.parametrize("search", [False, True])
def test_what_is_queued_is_nobodys_and_given_out_once(tmp_path: Path, search: bool) -> None:
    world = World(tmp_path, search)
    assert isinstance(world.subject, Samples if search else Rows)
    keys = [world.job().tasks[0].key for _ in range(2)]
    assert len(set(keys)) == 2 and world.queue.next() == "wait"  # they may come back
    assert not any(leases.highest(world.storage.files, key) for key in keys)


@pytest.mark.parametrize("search", [False, True])
def test_what_ran_out_of_memory_in_its_share_gets_a_whole_gpu_once(tmp_path: Path, search: bool) -> None:
    world = World(tmp_path, search)
    first = world.job()
    key = first.tasks[0].key
    world.queue.ended(key, Outcome(key, "failed", "out of memory", needs_more_memory=True))
    again = world.job()
    assert not first.whole_gpu and again.whole_gpu and again.tasks[0].key == key
    assert len(world.notes) == 1 and "once more with a whole one" in world.notes[0]
    assert world.storage.view(key).failure is None
    world.queue.ended(key, Outcome(key, "failed", "out of memory", needs_more_memory=True))
    other = world.job().tasks[0].key
    assert other != key  # it has had its second try
    world.queue.ended(other, Outcome(other, "failed", "loss became nan"))
    assert world.queue.next() is None
    assert world.storage.view(key).failure is not None


OTHERS = "  - {label: other, set: {training.batch_size: 32}}\n  - {label: last, set: {training.learning_rate: 0.2}}\n"


def test_what_shares_a_process_is_of_one_shape(tmp_path: Path) -> None:
    world = World(tmp_path, more=OTHERS)
    sizes = []
    while (job := world.queue.next(lambda spec: 8)) != "wait":
        assert isinstance(job, Job)
        sizes.append([task.spec.training.batch_size for task in job.tasks])
    assert sizes == [[BATCH, BATCH, BATCH], [32]]


def test_a_search_is_asked_for_no_more_than_shares_a_process(tmp_path: Path) -> None:
    world = World(tmp_path, search=True)
    job = world.queue.next(lambda spec: 1)
    assert isinstance(job, Job) and len(job.tasks) == 1 and len(world.subject.search.samples) == 1


def test_memory_that_runs_out_halves_what_shares_a_process(tmp_path: Path) -> None:
    world = World(tmp_path, more=OTHERS, seeds=[0, 1])

    def next_sizes(out_of_memory: bool) -> list[int]:
        jobs = []
        while isinstance(job := world.queue.next(lambda spec: 5 if spec.training.batch_size == BATCH else 2), Job):
            jobs.append(job)
        for task in (task for job in jobs for task in job.tasks):
            lacks = out_of_memory and task.spec.training.batch_size == BATCH
            world.queue.ended(task.key, Outcome(task.key, "failed", "out of memory", needs_more_memory=lacks))
        return [len(job.tasks) for job in jobs]

    assert next_sizes(True) == [5, 2, 1]
    assert "in a process of 5 trainings; once more in groups of at most 2 like it" in world.notes[0]
    world.notes.clear()
    assert sorted(next_sizes(True)) == [1, 1, 2, 2]
    assert sum("in a process of 2 trainings; once more by itself" in note for note in world.notes) == 4
    assert next_sizes(False) == [1] * 5


@pytest.mark.parametrize("search", [False, True])
def test_what_another_launch_holds_is_waited_for_and_taken_when_it_is_free(tmp_path: Path, search: bool) -> None:
    world = World(tmp_path, search)
    keys = [world.job().tasks[0].key for _ in range(2)]
    other = Leases(world.storage.files)
    other.beat()
    assert other.acquire(keys[0])
    world.queue.ended(keys[0], Outcome(keys[0], "not_mine"))
    world.queue.ended(keys[1], Outcome(keys[1], "interrupted", "its process was lost"))
    assert world.queue.next() == "wait" and world.waits[0] == keys[0]
    other.release(keys[0])
    assert world.queue.next() == "wait"  # it has only just looked
    world.now += WAIT_S
    job = world.job()
    assert job.tasks[0].key == keys[0]
    lease = job.tasks[0].lease
    assert lease is not None and leases.take(world.storage.files, keys[0], lease.owner, lease.free) is not None
    assert world.leases.taken(keys[0])


def test_a_worker_takes_no_lease_that_came_after_the_launch_looked(tmp_path: Path) -> None:
    world = World(tmp_path)
    task = world.job().tasks[0]
    other = Leases(world.storage.files)
    other.beat()
    assert other.acquire(task.key)
    assert task.lease is not None
    assert leases.take(world.storage.files, task.key, **asdict(task.lease)) is None
    other.release(task.key)
    number = leases.take(world.storage.files, task.key, **asdict(task.lease))
    assert number is not None
    # A retry of the same launch shuts its lost worker out.
    assert leases.take(world.storage.files, task.key, **asdict(task.lease)) == number + 1
    assert not leases.in_force(world.storage.files, task.key, number)


def test_two_launches_of_one_plan_share_its_work(tmp_path: Path) -> None:
    one, two = World(tmp_path), World(tmp_path)
    first, second = one.job(), one.job()  # both are queued with the first launch
    theirs = two.job()
    assert theirs.tasks[0].key == first.tasks[0].key
    from ablate.execution.worker import run
    from ablate.learning import data

    digits = data.load(second.tasks[0].spec.data, tmp_path)
    # The second launch starts what the first has only queued, while the first trains the other one.
    swapped = two.job()
    outcome = run(swapped.tasks[0], digits, lambda event: None)
    assert outcome.state == "finished"
    two.queue.ended(swapped.tasks[0].key, outcome)
    late = run(second.tasks[0], digits, lambda event: None)
    assert late.state == "finished"  # done meanwhile: nothing was trained again
    attempts = list((tmp_path / "storage" / second.tasks[0].key / "attempts").iterdir())
    assert len(attempts) == 1


def test_a_queue_run_in_this_process_ends_with_every_row(tmp_path: Path) -> None:
    world = World(tmp_path)
    executor = LocalExecutor(
        world.subject.resources(world.options),
        load_for(world.subject.may_train(), tmp_path),
        world.storage.files,
        world.notes.append,
    )
    executor.run(world.queue, lambda event: None)
    assert {training.action for training in world.subject.plan.trainings.values()} == {"reuse"}
    assert world.subject.code() == 0
