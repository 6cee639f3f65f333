"""FAT: a learned mask on the spectrum of the weights (arXiv 2102.07444; Section 3.3.2 of the paper)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ablate.spaces.specs import ModelSpec, TrainingSpec


class FrequencyMask(nn.Module):
    """w' = Re F^-1(m * F(w)) with m = sigmoid(A |F(w)|), F the DFT of each filter as one vector.

    A starts at 1 / filters, so every mask starts from the mean magnitude over the layer's filters. In wide layers that
    is large, and the mask starts saturated at 1; `statistics` shows it.

    Args:
        filters: Output channels of the layer.
    """

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((filters, filters), 1.0 / filters))

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weights.

        Args:
            weight: [filters, ...] standardized weights, float.

        Returns:
            As `weight`.
        """
        flat = weight.flatten(1)
        spectrum = torch.fft.rfft(flat)
        masked: Tensor = torch.fft.irfft(self._mask(spectrum) * spectrum, n=flat.shape[1])
        return masked.reshape(weight.shape)

    def mask(self, weight: Tensor) -> Tensor:
        """The mask.

        Args:
            weight: [filters, ...] standardized weights of k elements in each filter, float.

        Returns:
            [filters, k] in (0, 1], by frequency.
        """
        flat = weight.flatten(1)
        half = self._mask(torch.fft.rfft(flat))
        count = flat.shape[1]
        # Entry k - f of a real vector's spectrum has the magnitude of entry f.
        frequency = torch.arange(count, device=half.device)
        return half[:, torch.minimum(frequency, count - frequency)]

    def _mask(self, spectrum: Tensor) -> Tensor:
        # Half of the spectrum is enough: magnitudes of the other half are the same, hence the masks, and the inverse
        # of a symmetric product is real.
        mask = torch.sigmoid(self.weight @ spectrum.abs())
        return mask.clamp_min(torch.finfo(mask.dtype).tiny)


def parameter_groups(network: nn.Module, training: TrainingSpec, model: ModelSpec) -> list[dict[str, Any]]:
    """The optimizer's parameters: one group of all, scales included; FAT's masks apart where they have own settings.

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
