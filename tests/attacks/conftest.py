"""Small networks and images that the tests of attacks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

CLASSES = 10


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    index: Tensor


def _make_network(dtype: torch.dtype = torch.float64, shift: float = 0.0, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 16, CLASSES),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        for module in network:
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.3)
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
                module.weight.add_(1.0)
        network[-1].bias.add_(shift)
    return network.to(dtype).eval()


def _make_batch(network: nn.Module, count: int = 24, dtype: torch.dtype = torch.float64, seed: int = 0) -> Batch:
    """Images of 256 grey levels, some pixels at exactly 0 and 1; labels the network mostly agrees with."""
    generator = torch.Generator().manual_seed(1000 + seed)
    images = torch.randint(-40, 296, (count, 3, 8, 8), generator=generator).clamp(0, 255).to(dtype) / 255
    with torch.no_grad():
        labels = network(images).argmax(1)
    labels[::5] = (labels[::5] + 1) % CLASSES
    return Batch(images, labels, torch.arange(count))


@pytest.fixture
def make_network() -> Callable[..., nn.Module]:
    return _make_network


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    return _make_batch


@pytest.fixture
def network() -> nn.Module:
    return _make_network()


@pytest.fixture
def batch(network: nn.Module) -> Batch:
    return _make_batch(network)
