from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from ablate.core.errors import SpecError
from ablate.learning.models import build_network
from ablate.learning.models.layers import Hardtanh
from ablate.spaces.specs import ModelSpec

ARCHS = ("mobilenet_v2", "efficientnet_b0")
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arch, millions", [("mobilenet_v2", 2.24), ("efficientnet_b0", 4.02)])
def test_published_sizes(arch: str, millions: float) -> None:
    network = build_network(ModelSpec(arch=arch), 10, 32, 0)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size, last", [(32, 4), (64, 8), (128, 4)])
def test_early_strides_are_removed_for_small_images_only(arch: str, size: int, last: int) -> None:
    network = build_network(ModelSpec(arch=arch, width=0.25), 10, size, 0).eval()
    with torch.no_grad():
        assert network.features(torch.rand(1, 3, size, size)).shape[2:] == (last, last)  # type: ignore[operator]


@pytest.mark.parametrize("arch", ARCHS)
def test_each_option_changes_the_network(arch: str) -> None:
    outputs = [
        build_network(ModelSpec(arch=arch, **{"width": 0.25, **change}), 10, 32, 0)(IMAGES)
        for change in ({}, {"activation": "hardtanh"}, {"width": 0.5})
    ]
    for i, one in enumerate(outputs):
        assert one.shape == (2, 10) and one.isfinite().all()
        assert not any(torch.allclose(one, other) for other in outputs[i + 1 :])


@pytest.mark.parametrize("arch", ARCHS)
def test_hardtanh_leaves_no_other_rectifier(arch: str) -> None:
    def kinds(activation: str) -> set[type[nn.Module]]:
        network = build_network(ModelSpec(arch=arch, activation=activation, width=0.25), 10, 32, 0)
        candidates = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardtanh)
        return {type(module) for module in network.modules() if isinstance(module, candidates)}

    assert kinds("relu") == {nn.ReLU6 if arch == "mobilenet_v2" else nn.SiLU}
    assert kinds("hardtanh") == {Hardtanh}


@pytest.mark.parametrize("arch", ARCHS)
def test_a_training_forward_draws_no_random_numbers(arch: str) -> None:
    network = build_network(ModelSpec(arch=arch, width=0.25), 10, 32, 0)
    assert all(module.p == 0 for module in network.modules() if isinstance(module, (nn.Dropout, StochasticDepth)))
    before = torch.get_rng_state()
    first = network(IMAGES)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(network(IMAGES), first)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_depth_is_refused_because_there_is_no_choice(arch: str) -> None:
    with pytest.raises(SpecError, match=rf"expected no model\.depth .*'{arch}'.*got 20"):
        build_network(ModelSpec(arch=arch, depth=20), 10, 32, 0)
