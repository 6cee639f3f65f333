"""No network meets oneDNN's fault in the weight gradient of strided 1x1 convolutions (a crash, or wrong numbers)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ablate.learning.models import build_network, pointwise
from ablate.spaces.specs import ModelSpec
from tests.support.helpers import run_module


@pytest.mark.parametrize("threads", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))])
def test_every_gradient_of_every_network_is_right(tmp_path: Path, threads: int) -> None:
    assert "all right" in run_module("tests.support.gradients", tmp_path, str(threads))


def test_gradients_of_gradients_are_right() -> None:
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 4, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, weight: F.conv2d(x, weight, stride=2, padding=1), (x, weight))


@pytest.mark.parametrize("arch", ["resnet20", "wrn_34_10", "mobilenet_v2", "efficientnet_b0"])
def test_full_width_networks_are_left_to_torch(arch: str) -> None:
    """So that they keep their bits."""
    depth = 10 if arch == "wrn_34_10" else None
    network = build_network(ModelSpec(arch=arch, depth=depth), 10, 32, 0)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    pointwise_ones = [layer for layer in convolutions if layer.kernel_size == (1, 1) and layer.stride != (1, 1)]
    assert all(layer.weight.shape[1] >= pointwise.BLOCK for layer in pointwise_ones)


def test_other_convolutions_have_torchs_own_gradients_bit_for_bit() -> None:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    for channels, kernel, stride in ((16, 1, 2), (8, 3, 2), (8, 1, 1)):
        x, weight = torch.randn(5, channels, 9, 9), torch.randn(4, channels, kernel, kernel)
        grad = torch.randn_like(F.conv2d(x, weight, stride=stride))
        args = (grad, x, weight, [4], [stride] * 2, [0, 0], [1, 1], False, [0, 0], 1, [True, True, True])
        ours = torch.ops.aten.convolution_backward.default(*args)
        theirs = pointwise.TORCHS_OWN.call_boxed(keys, *args)
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
