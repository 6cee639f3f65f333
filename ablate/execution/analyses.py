"""A named analysis of one network, with the examples that analyses share: what the worker hands it, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablate.analysis.registry import AnalysisContext, declared_settings, get_analysis
from ablate.attacks import Checks, build_attack
from ablate.core.errors import MeasurementError
from ablate.core.metric_names import refused
from ablate.spaces.metrics import refused_scalar
from ablate.spaces.planned_measurement import PlannedMeasurement
from ablate.spaces.settings import values_of
from ablate.storage.records import Record

EXAMPLES_BLOCK = 256
"""Images that analyses have attacked at once; the blocks are fixed, so that the bits do not hang on who asks first."""


@dataclass(frozen=True)
class AnalysisInputs:
    """What analyses look at.

    Attributes:
        network: With the weights to measure, in evaluation mode.
        asked: What attacks ask instead.
        images: [N, 3, H, W] uint8 test images on the device.
        labels: [N] int64.
        seed: The training's.
        corrupted: The data set's official corruptions, where it has them.
        examples: Attack and block -> its examples, kept between the analyses of one network.
    """

    network: nn.Module
    asked: nn.Module
    images: Tensor
    labels: Tensor
    seed: int
    corrupted: Mapping[str, np.ndarray[Any, Any]] | None = None
    examples: dict[tuple[str, int], Tensor] = field(default_factory=dict)


def analyse(measurement: PlannedMeasurement, inputs: AnalysisInputs, progress: Callable[[int, int], None]) -> Record:
    """Run an analysis.

    Args:
        measurement: Which, with its settings.
        inputs: What it looks at.
        progress: To be told now and then how much is done, and of how much.

    Raises:
        MeasurementError: A scalar has a name that is another number's, or is not finite.
    """
    attack = build_attack("pgd20", measurement.settings)
    images, labels = inputs.images, inputs.labels

    def block(number: int) -> Tensor:
        # Analyses look at the same images: each block is attacked once, whoever asks first.
        what = (repr(attack), number)
        if what not in inputs.examples:
            places = torch.arange(number * EXAMPLES_BLOCK, min((number + 1) * EXAMPLES_BLOCK, len(images)))
            places = places.to(images.device)
            chosen = images[places].float() / 255.0
            made = attack.perturb(inputs.asked, chosen, labels[places], index=places, seed=inputs.seed)
            checks = Checks(attack)
            checks.examples(made, chosen)
            checks.settle()
            inputs.examples[what] = made
        return inputs.examples[what]

    def adversarial(places: Tensor) -> Tensor:
        wanted = [divmod(place, EXAMPLES_BLOCK) for place in places.tolist()]
        return torch.stack([block(number)[within] for number, within in wanted])

    context = AnalysisContext(
        network=inputs.network,
        images=images,
        labels=labels,
        adversarial=adversarial,
        seed=inputs.seed,
        batch_size=measurement.settings.batch_size,
        corrupted=inputs.corrupted,
        asked=inputs.asked,
        settings=values_of(measurement.settings, declared_settings(measurement.name) or ()),
        progress=progress,
    )
    result = get_analysis(measurement.name)(context)
    for problem in filter(None, (refused(name) or refused_scalar(name) for name in result.scalars)):
        raise MeasurementError(f"{measurement.name}: {problem}")
    bad = [name for name, value in result.scalars.items() if not math.isfinite(value)]
    if bad:
        raise MeasurementError(f"{measurement.name}: expected finite numbers, got none for {bad[0]}")
    return Record(measurement.key, dict(result.scalars), dict(result.arrays), {"what": measurement.name})
