"""How much work a training with its measurements is, in floating-point operations.

Work is counted in forward passes of one image: an attack's step is one pass and one gradient for the image (twice a
pass), an optimizer step a pass and its full gradient (three times a pass).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from ablate.analysis.examples import ANALYSED_IMAGES
from ablate.analysis.registry import declared_passes, declared_settings
from ablate.attacks import Attack, Ensemble, Square, build_attack
from ablate.learning.models import build_network
from ablate.learning.objectives import traits
from ablate.spaces.planned_measurement import PlannedMeasurement
from ablate.spaces.settings import values_of
from ablate.spaces.specs import ModelSpec, TrainingAttackSpec, TrialSpec

STEP_COST, UPDATE_COST = 2.0, 3.0
"""Forward passes that an attack's step and an optimizer's step amount to."""

_STEPS = {"fgsm": 1}
_ASSUMED_STEPS = 20  # of an attack that does not say
_STILL_RIGHT = 0.4
"""Share of its work that an attack which `spares_broken` has to do: about as many images stay right in the networks of
the paper. Where fewer do it is less."""


def measurement_cost(
    measurement: PlannedMeasurement, test_count: int, image_size: int, *, at_most: bool = False
) -> float:
    """Forward passes of one image that a measurement amounts to.

    Args:
        measurement: Which.
        test_count: Test images.
        image_size: Height and width in pixels.
        at_most: Where no attack breaks any image; else about as many as a robust network takes.
    """
    passes = declared_passes(measurement.name) if measurement.kind == "analysis" else None
    if passes is not None:
        return passes(
            values_of(measurement.settings, declared_settings(measurement.name) or ()), test_count, image_size
        )
    if measurement.kind != "attack":
        count = min(test_count, ANALYSED_IMAGES) if measurement.kind == "transfer" else test_count
        return count * (1 + STEP_COST * _ASSUMED_STEPS)
    made = build_attack(measurement.name, measurement.settings)
    count = min(test_count, measurement.settings.images or test_count) if made.reducible else test_count
    if isinstance(made, Ensemble):  # what is a column by itself is not attacked once more
        asked = [part for part in made.parts if part.name not in measurement.settings.attacks]
        return count * (1 + sum(attack_cost(part, at_most=at_most) for part in asked))
    return count * attack_cost(made, at_most=at_most)


def attack_cost(attack: Attack, *, at_most: bool = False) -> float:
    """Forward passes that an attack on one image amounts to, with its judging.

    Args:
        attack: Which.
        at_most: As of `measurement_cost`.
    """
    if isinstance(attack, Ensemble):
        return sum(attack_cost(part, at_most=at_most) for part in attack.parts)
    again = getattr(attack, "targets", 1) * getattr(attack, "restarts", 1)
    if attack.spares_broken and not at_most:
        again *= _STILL_RIGHT
    if isinstance(attack, Square):
        return 1.0 + again * attack.queries
    assumed = _STEPS.get(attack.name, _ASSUMED_STEPS if attack.uses_network else 0)
    return 1.0 + STEP_COST * again * int(getattr(attack, "steps", assumed))


def training_cost(spec: TrialSpec, train_count: int) -> float:
    """Forward passes of one image that an epoch's training amounts to."""
    return max(1, train_count - round(train_count * spec.data.validation)) * image_cost(spec)


def image_cost(spec: TrialSpec) -> float:
    """Forward passes that training on one image amounts to."""
    training = spec.training
    known = traits(training.objective)
    attack = STEP_COST * attack_steps(training.attack) + (1.0 if known.attacked == "divergence" else 0.0)
    return attack + UPDATE_COST * known.passes * (2 if training.awp else 1)


def attack_steps(attack: TrainingAttackSpec) -> int:
    """Steps of a training attack; 0 of natural training."""
    return attack.passes


@functools.cache
def forward_flops(model: ModelSpec, image_size: int, classes: int) -> float:
    """Floating-point operations of one image's way through a network.

    Args:
        model: Which.
        image_size: Height and width in pixels.
        classes: Number of logits.

    Returns:
        Operations, a multiplication and an addition as two.
    """
    # Quantizing changes no product; building without it is quick.
    plain = model.model_copy(update={"quantization": ModelSpec().quantization})
    network = build_network(plain, classes, image_size, 0).eval()
    total = 0.0

    def count(module: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        total += 2.0 * output.numel() * weight.numel() / weight.shape[0]

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # torch's own counter imports the compiler, for seconds, to count the same products.
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, image_size, image_size))
    return max(total, 2.0 * sum(parameter.numel() for parameter in network.parameters()), 1.0)
