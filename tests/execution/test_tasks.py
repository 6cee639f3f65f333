"""Several trainings in one process: each ends for itself, and leaves what it leaves alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ablate.core.errors import DeviceError
from ablate.execution import watchdog, worker
from ablate.execution.base import Event, Job, Lease, Outcome, Resources, Task
from ablate.execution.local import run_watched
from ablate.execution.packing import GroupSizer, gpus_of
from ablate.execution.tasks import never_stopped, run_tasks
from ablate.learning import data, training
from ablate.spaces.specs import DataSpec, ModelSpec, TrialSpec
from ablate.storage import checkpoints
from ablate.storage.files import LocalFiles
from ablate.storage.leases import Leases
from ablate.storage.speeds import keep
from ablate.storage.storage import Storage
from tests.support.helpers import BATCH, launch_here, numbers, options_of, write_space
from tests.support.tasks import planned


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load(DataSpec(name="digits", image_size=8), Path())


class World:
    """Two trainings of a folder, as one process gets them."""

    def __init__(self, folder: Path, digits: data.Dataset, *sets: str) -> None:
        self.storage = Storage(str(folder / "storage"))
        plan = planned(folder, *(sets or ("training.epochs=2",)))
        given = [
            Task(training.key, training.spec, tuple(training.measurements.values()), self.storage.location)
            for training in plan.trainings.values()
        ]
        self.tasks = Job(tuple(given)).placed(1, "cpu").tasks
        self.first, self.second = (task.key for task in self.tasks)
        self.datasets = {data.dataset_name(task.spec.data): digits for task in self.tasks}
        self.events: list[Event] = []
        self.ended: dict[str, Outcome] = {}

    def run(self, tasks: tuple[Task, ...] | None = None, *judging: Any) -> None:
        run_tasks(
            self.tasks if tasks is None else tasks,
            self.datasets,
            self.events.append,
            lambda outcome: self.ended.update({outcome.key: outcome}),
            *judging,
        )

    def alone(self) -> None:
        for task in self.tasks:
            self.run((replace(task, together=1),))

    @property
    def states(self) -> list[str]:
        return [self.ended[task.key].state for task in self.tasks]

    def log(self, key: str) -> str:
        return self.storage.log(key)[1]


@pytest.fixture
def world(tmp_path: Path, digits: data.Dataset) -> World:
    return World(tmp_path, digits)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: data.Dataset) -> dict[str, Any]:
    """The numbers of both, trained one after the other."""
    world = World(tmp_path_factory.mktemp("alone"), digits)
    world.alone()
    return numbers(world.storage.location)


def breaking(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Has one update of all raise, the first of which is 1."""
    step, count = training.TrainingRun.step, iter(range(1, 10**6))

    def broken(self: Any, *given: Any) -> Any:
        if next(count) == number:
            raise error
        return step(self, *given)

    monkeypatch.setattr(training.TrainingRun, "step", broken)


def test_storage_holds_what_it_holds_of_trainings_one_after_the_other(world: World, whole: dict[str, Any]) -> None:
    world.run()
    assert world.states == ["finished", "finished"] and numbers(world.storage.location) == whole
    kinds = [(event.key, event.kind, event.done) for event in world.events]
    # In turn: both begin before either ends its first epoch.
    assert kinds.index((world.second, "started", 0)) < kinds.index((world.first, "epoch", 1))
    for key, other in ((world.first, world.second), (world.second, world.first)):
        assert f"training {key}" in world.log(key) and other not in world.log(key)
        assert world.storage.view(key).attempts == 1


@pytest.mark.parametrize("error", [RuntimeError("no good"), training.TrainingError("loss became nan in epoch 1")])
def test_what_breaks_breaks_alone(
    world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    breaking(monkeypatch, 2, error)  # the first of the second
    world.run()
    assert world.states == ["finished", "failed"]
    failure = world.storage.view(world.second).failure
    assert failure is not None and str(error) in failure["reason"]
    assert world.storage.view(world.first).failure is None and "ERROR" not in world.log(world.first)
    monkeypatch.undo()
    world.run()
    assert world.states == ["finished", "finished"] and numbers(world.storage.location) == whole


def test_a_gpu_that_failed_interrupts_all_and_each_goes_on_from_its_checkpoint(
    world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 2 * 2 * (1437 // BATCH + 1)
    breaking(monkeypatch, steps - 3, torch.AcceleratorError("CUDA error: unspecified launch failure"))
    with pytest.raises(DeviceError, match="expected a GPU that works, got CUDA error: unspecified launch failure"):
        world.run()
    assert not world.ended  # another process goes on with both
    for key in (world.first, world.second):
        view = world.storage.view(key)
        assert view.failure is None and view.epoch == 1
        assert "unspecified launch failure" in world.log(key)
    monkeypatch.undo()
    world.run()
    assert world.states == ["finished", "finished"] and numbers(world.storage.location) == whole
    begun = {event.key: event.done for event in world.events if event.kind == "started"}
    assert begun == {world.first: 1, world.second: 1}


@pytest.mark.parametrize("failed_before", [True, False])
def test_a_retry_that_another_caused_does_not_train_again_what_has_failed(
    world: World, monkeypatch: pytest.MonkeyPatch, failed_before: bool
) -> None:
    failure = training.TrainingError("loss became nan in epoch 1")
    if failed_before:  # and is tried again, as with --retry-failed
        breaking(monkeypatch, 1, failure)
        world.run(world.tasks[1:])
        monkeypatch.undo()
    known = world.storage.view(world.second).failure
    assert (known is not None) == failed_before
    launch = Leases(world.storage.files)
    launch.beat()
    leased = [replace(task, lease=Lease(launch.owner), retry_failed=True) for task in world.tasks]
    tasks = (leased[0], replace(leased[1], failed_at=known["timestamp_ms"] if known else None))
    world.ended.clear()
    broken = iter([None, failure, torch.AcceleratorError("CUDA error: unspecified launch failure")])
    step = training.TrainingRun.step

    def fails(self: Any, *given: Any) -> Any:
        if (error := next(broken, None)) is not None:
            raise error
        return step(self, *given)

    monkeypatch.setattr(training.TrainingRun, "step", fails)
    with pytest.raises(DeviceError):
        world.run(tasks)
    assert world.ended[world.second].state == "failed"
    attempts = world.storage.view(world.second).attempts
    world.run(tasks)  # as Ray does
    assert world.states == ["finished", "failed"] and "nan" in world.ended[world.second].reason
    assert world.storage.view(world.second).attempts == attempts


def test_memory_that_runs_out_among_several_is_no_failure_yet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    breaking(monkeypatch, 2, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    world.run()
    assert world.states == ["finished", "failed"] and world.ended[world.second].needs_more_memory
    assert world.storage.view(world.second).failure is None
    assert "one of 2 in its process" in world.log(world.second)
    assert not [event for event in world.events if event.kind == "failed"]


def test_early_stopping_ends_one_of_several(world: World, whole: dict[str, Any]) -> None:
    world.run(None, "train/loss", lambda key, epoch, value: key != world.second)
    assert world.states == ["finished", "stopped"] and world.ended[world.second].epoch == 1
    assert world.storage.view(world.second).epoch == 1
    world.run()
    assert numbers(world.storage.location) == whole


@pytest.mark.skipif(not hasattr(watchdog.signal, "SIGUSR2"), reason="a signal of POSIX")
def test_one_that_hangs_is_broken_off_and_the_others_go_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now, save_state, never = [0.0], checkpoints.save_state, threading.Event()
    monkeypatch.setattr(watchdog, "LOOK_S", 0.01)
    monkeypatch.setattr(watchdog, "PAUSE_S", float("inf"))
    saved: list[int] = []

    def hangs(state: Any) -> bytes:
        saved.append(state.epoch)
        if len(saved) == 2:  # of the second, before its first epoch
            now[0] += 2 * watchdog.FIRST_S
            while True:
                never.wait(60)
        return save_state(state)

    monkeypatch.setattr(checkpoints, "save_state", hangs)
    run_watched(
        world.tasks,
        world.datasets,
        world.events.append,
        lambda outcome: world.ended.update({outcome.key: outcome}),
        None,
        never_stopped,
        lambda text: None,
        lambda: now[0],
    )
    assert world.states == ["finished", "interrupted"] and "it hangs" in world.ended[world.second].reason


def test_as_long_as_one_of_a_process_gets_on_none_of_it_hangs() -> None:
    now = [0.0]
    watch = watchdog.Watchdog(lambda: now[0])
    watch.together(["a", "b"])
    for key in ("a", "b"):
        watch.handle(Event(key, "started", 0, 9))
        watch.handle(Event(key, "epoch", 1, 9))

    def passes(seconds: float) -> None:
        for _ in range(int(seconds / 60)):
            now[0] += 60
            watch.hung()

    for _ in range(3):
        passes(0.6 * watchdog.LEAST_S)
        watch.handle(Event("a", "measured", 1, 9))
    passes(0.6 * watchdog.LEAST_S)
    watch.handle(Event("a", "finished"))
    passes(0.6 * watchdog.LEAST_S)
    assert not watch.hung()  # it has waited for what has just finished
    passes(100 * watchdog.LEAST_S)
    assert list(watch.hung()) == ["b"]


@pytest.mark.slow
def test_a_launch_of_groups_leaves_the_storage_of_one_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    groups: list[int] = []
    original = worker.run_in_turns

    def counting(task: Task, *rest: Any) -> Any:
        groups.append(task.together)
        return original(task, *rest)

    monkeypatch.setattr(worker, "run_in_turns", counting)
    for folder, changes in ((one, {}), (two, {"trials_per_process": 3})):
        folder.mkdir()
        write_space(folder, epochs=1)
        quick = ["measurement.attacks=[natural]"]
        code, text = launch_here(options_of(folder, seeds=[0, 1], sets=quick, **changes))
        assert code == 0, text
    assert groups == [1] * 4 + [3] * 3 + [1]
    assert numbers(one / "storage") == numbers(two / "storage")


MODEL = ModelSpec().model_dump(mode="json")


def size_of(folder: Path, notes: list[str], devices: int = 1, **asked: Any) -> Callable[[TrialSpec], int]:
    return GroupSizer(Resources(**{"trainings": 64, **asked}), LocalFiles(folder), devices, notes.append)


def test_the_table_of_streams_is_only_what_was_measured(tmp_path: Path) -> None:
    notes: list[str] = []
    spec = TrialSpec()
    for asked in ({}, {"gpus": "auto"}, {"per_process": "auto"}, {"per_process": 1, "gpus": "auto"}):
        assert size_of(tmp_path, notes, **asked)(spec) == 1
    assert len(notes) == 2 and all("--what streams" in note for note in notes)
    notes.clear()
    entry = {"model": MODEL, "mode": "float32", "batch_size": 512, "rates": {"1": 10, "2": 19, "4": 30, "8": 31}}
    keep(LocalFiles(tmp_path), [], "NVIDIA H100", 8, streams=[entry])
    for asked, size in (({"gpus": "auto"}, 4), ({"per_process": "auto"}, 4), ({}, 1), ({"per_process": 6}, 6)):
        assert size_of(tmp_path, notes, **asked)(spec) == size
    assert not notes
    other = TrialSpec.model_validate({"training": {"batch_size": 128}})
    assert size_of(tmp_path, notes, gpus="auto")(other) == 1 and len(notes) == 1
    assert size_of(tmp_path, notes, 0, per_process="auto")(spec) == 1  # a CPU gains nothing by it


def test_no_gpu_is_idle_while_others_are_shared(tmp_path: Path) -> None:
    assert size_of(tmp_path, [], 4, trainings=6, per_process=8)(TrialSpec()) == 2
    assert size_of(tmp_path, [], 1, max_concurrent=3, per_process=8)(TrialSpec()) == 3


def test_a_group_gets_the_gpus_of_its_trainings_but_one_at_most(tmp_path: Path) -> None:
    tasks = tuple(Task(str(number), TrialSpec(), (), "nowhere") for number in range(3))
    shares = [gpus_of(Job(tasks[:count]), None, 0.25) for count in (1, 2, 3)]
    assert shares == [0.25, 0.5, 0.75]
    assert gpus_of(Job(tasks), None, 1.0) == gpus_of(Job(tasks), {}, 1.0) == 1.0
    assert gpus_of(Job(tasks), None, 0.0) == 0.0
