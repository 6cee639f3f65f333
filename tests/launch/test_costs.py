"""What trainings have cost: every attempt counts, as far as it has said when it was last alive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ablate.launch.costs import Spent, spent_on
from ablate.planning.plan import Plan
from ablate.storage.attempts import Attempt
from ablate.storage.storage import Record, Storage
from tests.support.tasks import planned

T0 = 1_700_000_000_000
ON = {"device": "cpu", "threads": 2}
UNUSABLE = '{"began_ms": 1, "alive_ms": 2, "on": {"threads": 0, "trainings_per_process": 0}}'


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return planned(tmp_path_factory.mktemp("plan"), "training.epochs=2")


class Attempts:
    """A training's attempts, in seconds from T0."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.storage = Storage(str(folder / "storage"))
        self.training = list(plan.trainings.values())[-1]

    def begin(self, began: float, alive: float, epochs: Sequence[tuple[float, float]] = (), **more: Any) -> Attempt:
        """An attempt with its epochs (end, seconds), those of the attempt it goes on from first."""
        attempt = self.storage.attempt(self.training.key)
        told = {"began_ms": T0 + 1000 * began, "alive_ms": T0 + 1000 * alive, "on": {**ON, **more}}
        self.storage.files.write(attempt.alive, json.dumps(told).encode())
        self.train(attempt, epochs)
        return attempt

    def train(self, attempt: Attempt, epochs: Sequence[tuple[float, float]]) -> None:
        if epochs:
            history = [
                {"epoch": number, "timestamp_ms": T0 + 1000 * end, "metrics": {"seconds": took}}
                for number, (end, took) in enumerate(epochs, 1)
            ]
            attempt.save_checkpoint(len(epochs), b"", history)

    def measure(self, attempt: Attempt, number: int, end: float, took: float) -> None:
        key = list(self.training.measurements)[number]
        attempt.save_record(Record(key, {}, {}, {**ON, "seconds": took, "timestamp_ms": T0 + 1000 * end}))

    def spent(self) -> Spent:
        return spent_on(self.storage, self.training)

    def seconds(self, since: float = 0.0) -> float:
        """Core-seconds."""
        return 3600 * self.spent().hours(100.0, T0 + int(1000 * since))


@pytest.fixture
def attempts(tmp_path: Path, plan: Plan) -> Attempts:
    return Attempts(tmp_path, plan)


def test_what_was_killed_counts_up_to_its_last_sign_of_life(attempts: Attempts) -> None:
    attempts.begin(0, 50)  # before its first epoch
    assert attempts.seconds() == pytest.approx(2 * 50)
    attempts.begin(100, 170, [(140, 35)])  # in its second
    assert attempts.seconds() == pytest.approx(2 * (50 + 35 + 30))
    done = attempts.begin(200, 260, [(140, 35), (230, 28)])  # while it measured
    attempts.measure(done, 0, 240, 8)
    assert attempts.seconds() == pytest.approx(2 * (50 + 35 + 30 + 28 + 8 + 20))
    spent = attempts.spent()
    assert not spent.gpu and not spent.whole and spent.devices == 2
    assert 3600 * spent.useful(100.0) == pytest.approx(2 * (35 + 28 + 8)), "what is lost is to be spent again"


def test_what_failed_counts_and_so_does_its_second_try(attempts: Attempts) -> None:
    diverged = attempts.begin(0, 55, [(40, 38)])
    diverged.save_failure("loss became nan", "", T0 + 60_000)
    assert attempts.seconds() == pytest.approx(2 * (38 + 20))
    again = attempts.begin(100, 130, [(40, 38)])
    again.save_failure("out of memory", "", T0 + 130_000)
    assert attempts.seconds() == pytest.approx(2 * (38 + 20 + 30))


def test_an_epoch_that_two_attempts_trained_counts_twice_and_one_that_is_carried_on_once(attempts: Attempts) -> None:
    attempts.begin(0, 40, [(40, 40)])
    attempts.begin(100, 150, [(40, 40), (150, 48)])
    attempts.begin(110, 160, [(40, 40), (160, 45)])  # its node was thought lost
    assert attempts.seconds() == pytest.approx(2 * (40 + 48 + 45))
    assert 3600 * attempts.spent().useful(100.0) == pytest.approx(2 * (40 + 48))


def test_only_what_was_spent_since_the_plan_was_launched_first_is_its_own(attempts: Attempts) -> None:
    attempts.begin(0, 90, [(30, 30)])
    assert attempts.seconds(since=20) == pytest.approx(2 * (30 + 60))
    assert attempts.seconds(since=50) == pytest.approx(2 * 40)
    assert attempts.seconds(since=90) == 0


def test_a_part_of_a_gpu_counts_as_that_also_where_nothing_was_measured(attempts: Attempts) -> None:
    attempts.begin(0, 100, device="NVIDIA H200", gpu_share=0.5, trainings_per_process=2)
    assert attempts.seconds() == pytest.approx(100 / 4) and attempts.spent().gpu


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"began_ms": null, "alive_ms": 1, "on": {}}', '{"began_ms": 1e999}', UNUSABLE]
)
def test_without_signs_of_life_what_is_written_down_counts(attempts: Attempts, text: str) -> None:
    attempt = attempts.begin(0, 1000, [(40, 40)])
    attempts.storage.files.write(attempt.alive, text.encode())
    assert attempts.seconds() == pytest.approx(100 * 40)
    attempt.save_failure("loss became nan", "", T0 + 70_000)
    assert attempts.seconds() == pytest.approx(100 * 70)
    attempts.storage.attempt(attempts.training.key).save_failure("its process was killed", "", T0 + 90_000)
    assert attempts.seconds() == pytest.approx(100 * 70), "a launch wrote that down, which trained nothing"
