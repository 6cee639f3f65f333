"""A tiny training as a worker is given it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.execution import base, worker
from ablate.learning.data import Dataset
from ablate.learning.turns import Turns, finish
from ablate.planning.plan import Plan, make_plan
from ablate.spaces.loading import load_space
from ablate.spaces.presets import load_preset
from ablate.spaces.settings import parse_overrides
from ablate.spaces.trials import expand
from ablate.storage.storage import Storage
from tests.support.helpers import write_space

QUICK = ["training.epochs=1", "measurement.attacks=[natural, fgsm]"]


def planned(folder: Path, *sets: str, seed: int = 0) -> Plan:
    space = load_space(str(write_space(folder)))
    overrides = parse_overrides([*QUICK, *sets])
    trials = expand(space, load_preset("paper"), overrides, [seed])
    return make_plan([space], trials, preset=load_preset("paper"), overrides=[], seeds=[seed], data_root=folder)


def task(plan: Plan, storage: Storage, number: int = -1) -> base.Task:
    training = list(plan.trainings.values())[number]
    measurements = tuple(training.measurements.values())
    return base.Task(training.key, training.spec, measurements, storage.location, 1, "cpu", keep=tuple(training.keep))


Run = Callable[[base.Task, Dataset, base.Listener], base.Outcome]


def what_runs_tasks() -> Run:
    """What runs a task now, for what replaces it."""
    real = worker.run_in_turns
    return lambda task, dataset, listen: finish(real(task, dataset, listen))


def have_tasks_run_by(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put something in the place of what runs a task; it takes no turns."""

    def work(task: base.Task, dataset: Dataset, listen: base.Listener) -> Turns[base.Outcome]:
        yield from ()
        return run(task, dataset, listen)

    monkeypatch.setattr(worker, "run_in_turns", work)
