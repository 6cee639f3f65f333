from __future__ import annotations

import pytest
import torch
from torch import nn

from ablate.core.errors import SpecError
from ablate.learning.models import build_network
from ablate.learning.models.preact_resnet import PreActBlock, wide_resnet
from ablate.spaces.specs import ModelSpec


def test_wrn_34_10_has_its_published_size_and_34_layers() -> None:
    with torch.device("meta"):
        network = wide_resnet(ModelSpec(arch="wrn_34_10"), 10, 34)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == 46.2
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    # As the authors count, with the shortcut of each group and without the linear layer.
    assert len(convolutions) == 1 + 30 + 3
    assert network.groups[2][0].conv1.out_channels == 640


def test_the_first_group_widens_without_a_stride_and_the_others_halve() -> None:
    with torch.device("meta"):
        network = wide_resnet(ModelSpec(arch="wrn_34_10", depth=10), 10, 34)
    firsts = [group[0] for group in network.groups]
    assert all(isinstance(block, PreActBlock) and block.shortcut is not None for block in firsts)
    assert [block.conv1.stride for block in firsts] == [(1, 1), (2, 2), (2, 2)]


def test_each_option_changes_the_network() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    small = {"arch": "wrn_34_10", "width": 0.1, "depth": 10}
    outputs = [
        build_network(ModelSpec(**{**small, **change}), 10, 16, 0).eval()(images)
        for change in ({}, {"activation": "hardtanh"}, {"width": 0.2}, {"depth": 16})
    ]
    for i, one in enumerate(outputs):
        assert one.shape == (2, 10) and one.isfinite().all()
        assert not any(torch.allclose(one, other) for other in outputs[i + 1 :])


def test_a_depth_that_is_not_of_the_family_is_refused() -> None:
    with pytest.raises(SpecError, match=r"expected model\.depth of 6 n \+ 4 .*'wrn_34_10', got 20"):
        build_network(ModelSpec(arch="wrn_34_10", depth=20), 10, 16, 0)
