"""The data that trainings need, each loaded once, with what is measured on them besides."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ablate.learning import data
from ablate.learning.cifar10_c import CORRUPTIONS
from ablate.planning.plan import PlannedTraining


def load_for(trainings: Iterable[PlannedTraining], data_root: Path) -> dict[str, data.Dataset]:
    """Load what some trainings are trained and measured on, and nothing besides.

    Args:
        trainings: Which; official corruptions are loaded for data on which one of them measures corruptions.
        data_root: Where data sets are kept.

    Returns:
        `data.dataset_name` -> data.

    Raises:
        DataError: As of `data.load`.
        SpecError: As of `data.load`.
    """
    specs, corrupted = {}, set()
    for training in trainings:
        name = data.dataset_name(training.spec.data)
        specs[name] = training.spec.data
        if any(each.name == CORRUPTIONS for each in training.measurements.values()):
            corrupted.add(name)
    return {name: data.load(spec, data_root, corrupted=name in corrupted) for name, spec in specs.items()}
