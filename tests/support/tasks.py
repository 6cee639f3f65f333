"""A tiny training as a worker is given it."""

from __future__ import annotations

from pathlib import Path

from ablate.execution import base
from ablate.planning.plan import Plan, make_plan
from ablate.spaces.loading import load_space
from ablate.spaces.presets import load_preset
from ablate.spaces.settings import parse_overrides
from ablate.spaces.trials import expand
from ablate.storage.storage import Storage
from tests.support.helpers import write_space

QUICK = ["training.epochs=1", "measurement.attacks=[natural, fgsm]"]


def planned(folder: Path, *sets: str) -> Plan:
    space = load_space(str(write_space(folder)))
    overrides = parse_overrides([*QUICK, *sets])
    trials = expand(space, load_preset("paper"), overrides, [0])
    return make_plan([space], trials, preset=load_preset("paper"), overrides=[], seeds=[0], data_root=folder)


def task(plan: Plan, storage: Storage, number: int = -1) -> base.Task:
    training = list(plan.trainings.values())[number]
    measurements = tuple(training.measurements.values())
    return base.Task(training.key, training.spec, measurements, storage.location, 1, "cpu")
