"""`verify --spot N`: random images of random rows attacked again, with the networks that came along."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ablate.attacks import CleanLogits, Ensemble, build_attack, evaluate, evaluate_ensemble
from ablate.bundle.rows import Here, planned
from ablate.bundle.verification import Opened
from ablate.core.errors import SpecError
from ablate.core.text import plural
from ablate.learning import data
from ablate.learning.models import build_network, frozen_parameters
from ablate.learning.models.folding import as_measured, as_searched
from ablate.learning.precision import memory_format
from ablate.learning.resident import resident
from ablate.learning.state import TrainingState
from ablate.spaces.metrics import transferred
from ablate.spaces.planned_measurement import PlannedMeasurement
from ablate.spaces.specs import TrialSpec
from ablate.storage import checkpoints
from ablate.storage.plans import TrialPart


@dataclass(frozen=True)
class Spot:
    """One image of one column of one row.

    Attributes:
        part: The row, with a seed.
        metric: The column.
        place: Of the image among those that were attacked.
        stated: Whether it was classified correctly, says the bundle.
    """

    part: TrialPart
    metric: str
    place: int
    stated: bool

    @property
    def words(self) -> str:
        """What it is."""
        return f"{self.part.row}, seed {self.part.seed}, {self.metric}, image {self.place}"


def check(opened: Opened, count: int, here: Here, tell: Callable[[str], None]) -> list[str]:
    """Attack images again.

    Args:
        opened: The bundle.
        count: How many; nobody can tell beforehand which.
        here: What its rows need of this machine.
        tell: Called with what was done.

    Returns:
        A line for each image whose verdict is another one.

    Raises:
        UserError: There are no networks in it, or its data are not here.
    """
    views = {key: opened.storage.view(key) for key in opened.plan.trainings()}
    trials = opened.plan.trials
    columns = [
        (number, metric, key)
        for number, part in enumerate(trials)
        for metric, key in part.columns.items()
        if transferred(metric) is None  # which another row's network takes part in
        and views[part.training].has_checkpoint
        and key in views[part.training].records
    ]
    if not columns:
        raise SpecError(
            f"--spot: expected a bundle with networks, of make --checkpoints, got {opened.path.name} without"
        )
    chance = random.SystemRandom()
    lines: list[str] = []
    planned_row = functools.cache(lambda number: planned(opened, trials[number], here))
    dataset = functools.cache(functools.partial(data.load, data_root=here.data_root))
    for _ in range(count):
        number, metric, key = chance.choice(columns)
        part = trials[number]
        record = opened.storage.record(views[part.training], key)
        assert record is not None and record.correct is not None  # `verify` has looked at them
        place = chance.randrange(len(record.correct))
        spot = Spot(part, metric, place, bool(record.correct[place]))
        training, reasons = planned_row(number)
        if reasons:
            return [*lines, *reasons]
        measurement = training.measurements[key]
        found = _again(opened, spot, training.spec, measurement, dataset(training.spec.data))
        if found != spot.stated:
            said = {True: "classified correctly", False: "fooled"}
            made = f"{record.meta.get('device', '?')}, torch {record.meta.get('torch', '?')}"
            there = f"made on {made}, here torch {torch.__version__}; others turn a few of thousands"
            lines.append(f"{spot.words}: it states {said[spot.stated]}, again it is {said[found]} ({there})")
    tell(f"attacked {plural(count, 'image')} again, {count - len(lines)} as stated")
    return lines


def _again(opened: Opened, spot: Spot, spec: TrialSpec, measurement: PlannedMeasurement, dataset: data.Dataset) -> bool:
    """The verdict on one image, with those that were attacked beside it: sums hang on how many these are."""
    content, _ = opened.storage.checkpoint(spot.part.training)
    assert content is not None
    state = TrainingState(**checkpoints.load_state(content))
    network = build_network(spec.model, len(dataset.classes), spec.data.image_size, spec.seed)
    network.load_state_dict(state.network_of(measurement.network)["network"])
    network.eval()
    size = measurement.settings.batch_size
    attack = build_attack(measurement.name, measurement.settings)
    limit = len(dataset.test_images)
    if attack.reducible and measurement.settings.images is not None:
        limit = min(limit, measurement.settings.images)
    begin = spot.place // size * size
    part = slice(begin, min(begin + size, limit))
    device = torch.device("cpu")
    layout = memory_format(device, "float32")
    network.to(device, memory_format=layout)  # type: ignore[call-overload]
    shared = resident(dataset.test_images[part], dataset.test_labels[part], None, device, layout)
    images, labels = shared.images, shared.labels
    with frozen_parameters(network):
        asked: nn.Module = as_measured(network, spec.data.image_size)
        found: Tensor
        how = {
            "seed": spec.seed,
            "batch_size": size,
            "filters": [measurement.filter],
            "adaptive": measurement.adaptive,
            "index": torch.arange(part.start, part.stop),
            "clean": CleanLogits(asked, images, size),
            "search": as_searched(network, spec.data.image_size, measurement.settings.precision),
        }
        if isinstance(attack, Ensemble):
            found = evaluate_ensemble(asked, attack, images, labels, **how)[measurement.filter].correct  # type: ignore[arg-type]
        else:
            found = evaluate(asked, attack, images, labels, **how)[measurement.filter]  # type: ignore[arg-type]
    return bool(found[spot.place - begin])
