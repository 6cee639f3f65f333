from __future__ import annotations

import pytest
import torch
from torch import nn

from ablate.core.errors import SpecError
from ablate.learning.models import build_network
from ablate.learning.models.resnet import BasicBlock
from ablate.spaces.specs import ModelSpec


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_resnet20_has_20_layers_and_its_published_size() -> None:
    network = build_network(ModelSpec(), 10, 32, 0)
    assert round(_count(network) / 1e6, 2) == 0.27
    on_the_path = [
        module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and "shortcut" not in name
    ]
    assert len(on_the_path) == 20
    assert {module.out_channels for module in on_the_path if isinstance(module, nn.Conv2d)} == {16, 32, 64}
    assert not any(isinstance(module, nn.Conv2d) and module.bias is not None for module in network.modules())


def test_shortcuts_are_1x1_convolutions_with_bn_where_shapes_change_and_else_nothing() -> None:
    network = build_network(ModelSpec(), 10, 32, 0)
    blocks = [module for module in network.modules() if isinstance(module, BasicBlock)]
    for block in blocks:
        if block.conv1.in_channels == block.conv1.out_channels:
            assert isinstance(block.shortcut, nn.Identity)
        else:
            convolution, norm = block.shortcut.children()
            assert isinstance(convolution, nn.Conv2d) and convolution.kernel_size == (1, 1)
            assert isinstance(norm, nn.BatchNorm2d)
    assert sum(not isinstance(block.shortcut, nn.Identity) for block in blocks) == 2


@pytest.mark.parametrize("activation, other", [("relu", nn.Hardtanh), ("hardtanh", nn.ReLU)])
def test_the_activation_is_the_same_everywhere_and_each_use_has_its_own_module(
    activation: str, other: type[nn.Module]
) -> None:
    network = build_network(ModelSpec(activation=activation), 10, 32, 0)
    assert not any(isinstance(module, other) for module in network.modules())
    assert sum(isinstance(module, (nn.ReLU, nn.Hardtanh)) for module in network.modules()) == 19


@pytest.mark.parametrize("size", [8, 16, 32])
def test_logits_of_any_image_size(size: int) -> None:
    logits = build_network(ModelSpec(depth=8), 7, size, 0)(torch.rand(2, 3, size, size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


def test_each_option_changes_the_network() -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    outputs = [
        build_network(spec, 10, 16, 0).eval()(images)
        for spec in (ModelSpec(), ModelSpec(activation="hardtanh"), ModelSpec(width=0.5), ModelSpec(depth=8))
    ]
    for i, one in enumerate(outputs):
        assert not any(torch.allclose(one, other) for other in outputs[i + 1 :])


def test_width_multiplies_the_channels_of_every_layer() -> None:
    network = build_network(ModelSpec(width=0.5), 10, 16, 0)
    widths = {module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)}
    assert widths == {8, 16, 32}


@pytest.mark.parametrize("depth", [4, 7, 21])
def test_a_depth_that_is_not_of_the_family_is_refused(depth: int) -> None:
    with pytest.raises(SpecError, match=rf"expected model\.depth of 6 n \+ 2 .*got {depth}"):
        build_network(ModelSpec(depth=depth), 10, 16, 0)
