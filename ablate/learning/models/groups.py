"""The optimizer's parameter groups."""

from __future__ import annotations

from typing import Any

from torch import nn

from ablate.learning.models.fat import FrequencyMask
from ablate.spaces.specs import ModelSpec, TrainingSpec


def parameter_groups(network: nn.Module, training: TrainingSpec, model: ModelSpec) -> list[dict[str, Any]]:
    """One group of all parameters, scales and masks included; FAT's masks apart where they have own settings.

    In epoch e the schedule sets each group to

        group["initial_lr"] * training.learning_rate_at(e) / training.base_rate

    so FAT's own rate is used as given (no scaling with the batch size) and has the same steps.

    Args:
        network: From `build_network`.
        training: The learning rate and the weight decay.
        model: FAT's learning rate and weight decay.

    Returns:
        Groups for `torch.optim.SGD`, each with params, lr, initial_lr (equal at first) and weight_decay.
    """
    quantization = model.quantization
    rate, decay = training.base_rate, training.weight_decay
    masks = [
        parameter
        for module in network.modules()
        if isinstance(module, FrequencyMask)
        for parameter in module.parameters()
    ]
    if not masks or (quantization.fat_learning_rate is None and quantization.fat_weight_decay is None):
        return [_group(list(network.parameters()), rate, decay)]
    apart = {id(parameter) for parameter in masks}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in apart]
    fat_rate = rate if quantization.fat_learning_rate is None else quantization.fat_learning_rate
    fat_decay = decay if quantization.fat_weight_decay is None else quantization.fat_weight_decay
    return [_group(rest, rate, decay), _group(masks, fat_rate, fat_decay)]


def _group(parameters: list[nn.Parameter], rate: float, decay: float) -> dict[str, Any]:
    return {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
