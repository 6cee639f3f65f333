"""A training that hangs is told and ended as interrupted; one that is only slow is left alone."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from ablate.execution import base, local, tune, watchdog
from ablate.execution.base import Event, Kind
from ablate.execution.watchdog import FIRST_S, LEAST_S, Watchdog
from ablate.learning import data
from ablate.learning.data import dataset_name
from ablate.spaces.specs import DataSpec
from ablate.storage import checkpoints
from ablate.storage.storage import Storage
from tests.support.helpers import launch_here, options_of, write_space
from tests.support.tasks import planned, task

MINUTE = 60.0


class Clock:
    """A clock that goes on when it is told to, and looks at the watch every minute as a launch does."""

    def __init__(self) -> None:
        self.now = 0.0
        self.watch = Watchdog(self)

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + MINUTE)
            self.watch.hung()

    def tell(self, kind: Kind, done: int = 0, total: int = 9, **metrics: float) -> None:
        self.watch.handle(Event("k", kind, done, total, metrics))

    def hangs_after(self, seconds: float) -> bool:
        """Whether it hangs after so long, and not before."""
        self.passes(seconds - 1)
        before = bool(self.watch.hung())
        self.passes(2)
        return not before and bool(self.watch.hung())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load(DataSpec(name="digits", image_size=8), Path())


def test_the_first_epoch_has_an_hour_and_the_others_a_quarter_of_one(clock: Clock) -> None:
    clock.tell("started")
    clock.passes(50 * MINUTE)
    clock.tell("epoch", 0)  # that of before the first
    assert clock.hangs_after(FIRST_S)
    clock.tell("started")
    clock.passes(MINUTE)
    clock.tell("epoch", 1)
    assert clock.hangs_after(LEAST_S)
    assert clock.watch.hung()["k"] == "it hangs: no epoch has ended for 15 minutes"


def test_a_slow_training_has_ten_times_its_longest_epoch(clock: Clock) -> None:
    clock.tell("started")
    for epoch, took in enumerate((5, 40, 20), 1):
        clock.passes(took * MINUTE)
        clock.tell("epoch", epoch)
    assert clock.hangs_after(400 * MINUTE)


def test_a_measurement_has_ten_times_its_estimate(clock: Clock, digits: data.Dataset, tmp_path: Path) -> None:
    plan = planned(tmp_path, "measurement.attacks=[natural, pgd20]", "training.attack.steps=1")
    doing = task(plan, Storage(str(tmp_path / "storage")), 0)
    clock.watch.expect([doing], {dataset_name(doing.spec.data): digits})
    key = doing.key
    clock.watch.handle(Event(key, "started", 0, 1))
    clock.passes(10 * MINUTE)
    clock.watch.handle(Event(key, "epoch", 1, 1))  # the last; that it measures may be told later
    images = len(digits.test_labels) * (1 + 2 * 20) / (len(digits.train_labels) * (2 * 1 + 3))
    assert clock.watch.limit_s(key) == pytest.approx(10 * images * 10 * MINUTE)
    clock.watch.handle(Event(key, "measuring", 0, 2))
    assert clock.watch.limit_s(key) == pytest.approx(10 * images * 10 * MINUTE)
    clock.watch.handle(Event("other", "started", 9, 9))  # measured alone, of which nothing is known
    assert clock.watch.limit_s("other") == FIRST_S


@pytest.mark.parametrize("kind", ["finished", "failed", "interrupted", "stopped"])
def test_what_has_ended_hangs_no_more(clock: Clock, kind: Kind) -> None:
    clock.tell("started")
    clock.tell(kind)
    clock.passes(2 * FIRST_S)
    assert not clock.watch.hung()


def test_a_launch_that_was_paused_itself_takes_nobody_for_hung(clock: Clock) -> None:
    clock.tell("started")
    clock.tell("epoch", 1)
    clock.passes(5 * MINUTE)
    clock.now += 10 * FIRST_S
    assert not clock.watch.hung()
    assert clock.hangs_after(LEAST_S - 5 * MINUTE)


def test_under_ray_the_worker_is_killed_and_not_started_again(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []
    monkeypatch.setattr(tune.ray, "kill", killed.append)
    told: list[Event] = []
    ended: list[base.Outcome] = []
    jobs = iter([base.Job((SimpleNamespace(key=key, storage="nowhere"),)) for key in ("k", "other")])  # type: ignore[arg-type]
    queue: Any = SimpleNamespace(next=lambda *_: next(jobs), ended=lambda key, outcome: ended.append(outcome))
    monkeypatch.setattr(clock.watch, "expect", lambda *_: None)
    monkeypatch.setattr(tune, "pack", lambda task: {"key": task.key})
    searcher = tune.QueueSearcher(lambda job: (job, 0.0), queue, told.append, {}, clock.watch)
    relay = tune.TrialRelay(searcher)
    trials = [
        SimpleNamespace(
            trial_id=f"trial of {key}", max_failures=2, temporary_state=SimpleNamespace(ray_actor=f"worker of {key}")
        )
        for key in ("k", "other")
    ]
    for trial in trials:
        searcher.suggest(trial.trial_id)
        relay.on_trial_start(0, trials, trial)
    clock.tell("epoch", 1)
    clock.passes(LEAST_S + 1)
    relay.on_step_end(0, trials)
    assert killed == ["worker of k"] and [trial.max_failures for trial in trials] == [0, 2]
    searcher.on_trial_complete(trials[0].trial_id, error=True)
    assert [(event.key, event.kind) for event in told] == [("k", "interrupted")]
    assert ended == [base.Outcome("k", "interrupted", "it hangs: no epoch has ended for 15 minutes")]
    relay.on_trial_recover(0, trials, trials[1])  # lost, and waiting for a node
    clock.passes(2 * FIRST_S)
    assert not clock.watch.hung()


@pytest.mark.parametrize("judged", [False, True])
def test_a_lost_worker_tells_the_reason_whether_a_scheduler_judges_its_training_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judged: bool
) -> None:
    told: list[Event] = []
    ended: list[base.Outcome] = []
    job = base.Job((SimpleNamespace(key="k", storage=str(tmp_path)),), judged)  # type: ignore[arg-type]
    queue: Any = SimpleNamespace(next=lambda *_: job, ended=lambda key, outcome: ended.append(outcome))
    monkeypatch.setattr(tune, "pack", lambda task: {"key": task.key})
    watch: Any = SimpleNamespace(expect=lambda *_: None, forget=lambda *_: None)
    searcher = tune.QueueSearcher(lambda job: (job, 0.0), queue, told.append, {}, watch)
    assert searcher.suggest("trial")["judged"] is judged
    wrong = ModuleNotFoundError("No module named 'mine'")
    error = ray.exceptions.RayTaskError("train", "ModuleNotFoundError: No module named 'mine'", wrong)
    searcher.trials["trial"] = SimpleNamespace(
        get_error=lambda: "ModuleNotFoundError: No module named 'mine'", get_pickled_error=lambda: error
    )
    searcher.on_trial_complete("trial", error=True)
    assert ended == [base.Outcome("k", ended[0].state, "lost: ModuleNotFoundError: No module named 'mine'")]
    assert [(event.key, event.text) for event in told] == [("k", ended[0].reason)]


@pytest.mark.skipif(not hasattr(watchdog.signal, "SIGUSR2"), reason="a signal of POSIX")
@pytest.mark.parametrize("how", ["waits", "computes"])
@pytest.mark.slow
def test_in_this_process_it_is_broken_off_and_the_others_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    write_space(tmp_path, attacks="natural, gn, fgsm")
    clock, save_state, hanging_now = Clock(), checkpoints.save_state, threading.Event()
    watched = local.run_watched
    monkeypatch.setattr(watchdog, "LOOK_S", 0.01)
    monkeypatch.setattr(watchdog, "PAUSE_S", float("inf"))

    def hangs(state: Any) -> bytes:
        if state.epoch == 1 and not hanging_now.is_set():
            hanging_now.set()
            clock.now += 2 * FIRST_S
            while True:
                try:
                    if how == "waits":
                        time.sleep(60)
                except Exception:
                    continue
        return save_state(state)

    monkeypatch.setattr(checkpoints, "save_state", hangs)
    monkeypatch.setattr(local, "run_watched", lambda *given: watched(*given, clock))
    code, text = launch_here(options_of(tmp_path))
    assert code == 1 and "interrupted: it hangs: no epoch has ended for" in text and "1 done" in text
    opened = Storage(str(tmp_path / "storage"))
    assert all(opened.view(key).failure is None for key in opened.keys())  # noqa: SIM118 - a method of ours
    assert launch_here(options_of(tmp_path))[0] == 0


def test_outside_the_main_thread_it_is_told(clock: Clock) -> None:
    told, said = threading.Event(), []

    def note(text: str) -> None:
        said.append(text)
        told.set()

    def hang() -> None:
        with watchdog.breaking_off(clock.watch, ["k"], note, every_s=0.01):
            clock.now += 90  # less than a pause, over and over
            while not told.wait(0.02):
                clock.now += 90

    thread = threading.Thread(target=hang)
    thread.start()
    thread.join(60)
    assert len(said) == 1 and "it hangs" in said[0] and "the same command goes on" in said[0]
