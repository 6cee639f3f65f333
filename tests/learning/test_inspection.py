from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.core.errors import SpecError
from ablate.learning.models import (
    build_network,
    effective_weight,
    first_activation,
    is_quantized,
    named_convolutions,
)
from ablate.spaces.specs import ModelSpec, QuantizationSpec

SPECS: list[dict[str, Any]] = [
    {"depth": 8},
    {"depth": 8, "activation": "hardtanh", "quantization": QuantizationSpec(bits=2, fat=True)},
    {"arch": "mobilenet_v2", "width": 0.25},
    {"arch": "efficientnet_b0", "width": 0.25, "quantization": QuantizationSpec(bits=4)},
    {"arch": "wrn_34_10", "depth": 10, "width": 0.1},
]
IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_first_activation_is_hardtanh_of_the_first_norm_of_the_first_convolution(spec: dict[str, Any]) -> None:
    network = build_network(ModelSpec(**spec), 10, 16, 0)
    for _ in range(2):
        network(IMAGES)  # running statistics of their own
    convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    norm.eval()
    expected = F.hardtanh(norm(convolution(IMAGES)))
    norm.train()
    result = first_activation(network, IMAGES)
    assert torch.equal(result, expected)
    assert not result.requires_grad and result.abs().max() <= 1
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_modes_are_restored_one_by_one() -> None:
    network = build_network(ModelSpec(depth=8), 10, 16, 0)
    network.bn1.eval()  # type: ignore[union-attr]
    first_activation(network, IMAGES)
    assert not network.bn1.training and network.training  # type: ignore[union-attr]


class _Backwards(nn.Module):
    """Defined in the reverse of the order in which it runs, the first layers functional and in place."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(5)
        self.late = nn.Conv2d(4, 5, 3)
        self.unused = nn.Conv2d(9, 9, 3)
        self.early = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.late(F.relu_(self.early(2 * x - 1))))
        return out.mean(dim=(2, 3))


def test_without_a_norm_of_the_first_convolution_its_own_output_is_taken() -> None:
    network = _Backwards()
    assert torch.equal(first_activation(network, IMAGES), F.hardtanh(network.early(2 * IMAGES - 1)))


def test_a_network_without_convolutions_is_refused() -> None:
    with pytest.raises(SpecError, match=r"expected a network with an nn\.Conv2d layer, got Sequential"):
        first_activation(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), IMAGES)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_definition_and_execution_order_agree_in_our_networks(spec: dict[str, Any]) -> None:
    network = build_network(ModelSpec(**spec), 10, 16, 0)
    defined = named_convolutions(network)
    assert defined == named_convolutions(network, IMAGES)
    assert all(network.get_submodule(name) is module for name, module in defined)


def test_execution_order_is_known_with_images() -> None:
    network = _Backwards()
    assert [name for name, _ in named_convolutions(network)] == ["late", "unused", "early"]
    assert [name for name, _ in named_convolutions(network, IMAGES)] == ["early", "late"]


def test_effective_weights_are_the_ones_in_use() -> None:
    network = build_network(ModelSpec(depth=8, quantization=QuantizationSpec(bits=2)), 10, 16, 0)
    (_, first), *rest = named_convolutions(network)
    assert not is_quantized(first) and torch.equal(effective_weight(first), first.weight)
    for _, convolution in rest:
        assert is_quantized(convolution)
        assert torch.unique(effective_weight(convolution)).numel() == 3
        assert not effective_weight(convolution).requires_grad
