"""A network on the examples that are made on another training's: what the worker does for a transferred column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ablate.analysis.examples import ANALYSED_IMAGES
from ablate.attacks import Checks, adversarial_examples, build_attack
from ablate.attacks.evaluation import through_filter
from ablate.core.errors import StorageError
from ablate.learning.models import build_network, frozen_parameters
from ablate.learning.models.folding import as_measured
from ablate.learning.precision import memory_format
from ablate.learning.state import TrainingState
from ablate.spaces.planned_measurement import MadeOn, PlannedMeasurement
from ablate.storage import checkpoints
from ablate.storage.records import Record
from ablate.storage.status import TrainingView, network_digest
from ablate.storage.storage import Storage


def lacking(
    measurements: Sequence[PlannedMeasurement], view: TrainingView, storage: Storage
) -> list[PlannedMeasurement]:
    """What is to be measured of a training: also again, on examples of a network that has been trained anew since.

    Args:
        measurements: All that hang on it.
        view: What storage holds of it.
        storage: That.
    """
    return [
        each
        for each in measurements
        if each.key not in view.records or (each.made_on is not None and storage.record(view, each.key) is None)
    ]


def transferred(
    same: Sequence[PlannedMeasurement],
    made_on: MadeOn,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    classes: int,
    storage: Storage,
) -> list[Record]:
    """How a network answers to the PGD-20 examples of another training's, which are made once for all filters.

    Args:
        same: Which columns: they differ in their filter.
        made_on: The other network.
        network: Classifies, behind each measurement's filter; in evaluation mode.
        images: [N, 3, H, W] uint8 test images on the device; the first `ANALYSED_IMAGES` are attacked.
        labels: [N] int64.
        classes: Of the data.
        storage: Where the other training's checkpoint is.

    Returns:
        Of each, accuracy in percent, and which images were classified correctly.

    Raises:
        StorageError: It is not there any more, or damaged.
        MeasurementError: It keeps no such network, or an answer is not finite.
    """
    content, damaged = storage.checkpoint(made_on.training)
    if content is None:
        raise StorageError(damaged[0] if damaged else f"expected a checkpoint of {made_on.training}, got none")
    size, batch = images.shape[-1], same[0].settings.batch_size
    images, labels = images[:ANALYSED_IMAGES], labels[:ANALYSED_IMAGES]
    source = build_network(made_on.spec.model, classes, size, made_on.spec.seed)
    layout = memory_format(images.device, "float32")
    source.to(images.device, memory_format=layout)  # type: ignore[call-overload]
    state = TrainingState(**checkpoints.load_state(content))
    source.load_state_dict(state.network_of(made_on.network)["network"])
    source.eval()
    attack = build_attack("pgd20", made_on.spec.measurement)
    with frozen_parameters(source):
        asked = as_measured(source, size)
        examples = adversarial_examples(asked, attack, images, labels, seed=made_on.spec.seed, batch_size=batch)
    records = []
    for measurement in same:
        behind, checks, right = through_filter(network, measurement.filter), Checks(attack), []
        with torch.no_grad():
            for part, truth in zip(torch.split(examples, batch), torch.split(labels, batch), strict=True):
                logits = behind(part)
                checks.logits(logits, len(truth))
                right.append(logits.argmax(dim=1) == truth)
        checks.settle()
        correct = torch.cat(right).cpu().numpy().astype(np.bool_)
        meta = {
            "what": measurement.name,
            "settings": repr(attack),
            "made_on": made_on.training,
            "made_on_network": made_on.network,
            "made_on_digest": network_digest(state.history),
            "images": len(correct),
        }
        accuracy = 100.0 * float(correct.mean())
        records.append(Record(measurement.key, {"accuracy": accuracy}, {"correct": correct}, meta))
    return records
