"""Batch normalization's statistics: before the first step, where weights were standardized, and estimated anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ablate.core.randomness import uniform
from ablate.learning.models.quantization import QuantizedConv2d

NOISE_IMAGES = 8


@torch.no_grad()
def calibrate(network: nn.Module, image_size: int, key: int) -> None:
    """Start the running statistics behind transformed convolutions from one batch of noise instead of (0, 1).

    Standardized weights make a layer's output sqrt(fan-in) times its input. Batch statistics undo that, but attacks run
    in eval mode, where a fresh network would multiply it up over the layers: to infinity in deep networks, far beyond
    every clip in quantized ones, which gives no gradient. Statistics before the first transformed convolution stay as
    they are, so that every network's first activation starts alike.

    Args:
        network: Changed in place where it holds transformed convolutions; training mode.
        image_size: Height and width of the noise images in pixels.
        key: From `stream`; the noise is uniform in [0, 1).
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    convolutions = [module for module in network.modules() if isinstance(module, QuantizedConv2d)]
    if not convolutions or not norms:
        return
    momenta = [norm.momentum for norm in norms]

    def from_here_on(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for norm in norms:
            norm.momentum = 1.0

    hooks = [convolution.register_forward_pre_hook(from_here_on) for convolution in convolutions]
    for norm in norms:
        norm.momentum = 0.0
    try:
        network(uniform(key, torch.arange(NOISE_IMAGES), (3, image_size, image_size)))
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()


@contextmanager
def estimating_anew(network: nn.Module) -> Iterator[None]:
    """Inside, batch normalizations forget their averages and take the mean over all batches in training mode."""
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    network.train()
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
