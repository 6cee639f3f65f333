"""ResNet-18, PreActResNet-18 and WRN-28-10 are those that robustness papers compare on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ablate.core.errors import SpecError
from ablate.learning.cost import forward_flops
from ablate.learning.models import build_network, quantize_network
from ablate.spaces.specs import ModelSpec, QuantizationSpec
from tests.support.field_networks import ResNet18, WideResNet

PARAMETERS = {"preact_resnet18": 11_172_170, "resnet18": 11_173_962, "wrn_28_10": 36_479_194}


def plain(arch: str) -> nn.Module:
    """The plain network of the small sizes that `small` asks for."""
    if arch == "wrn_28_10":
        return WideResNet(5, depth=10, first=2, widen=1)
    return ResNet18(5, blocks=1, pre=arch == "preact_resnet18", thin=16)


def small(arch: str, **more: object) -> ModelSpec:
    sizes = {"depth": 10, "width": 0.1 if arch == "wrn_28_10" else 1 / 16}
    return ModelSpec.model_validate({"arch": arch, **sizes, **more})


@pytest.mark.parametrize("arch", PARAMETERS)
def test_they_have_the_published_number_of_parameters(arch: str) -> None:
    ours = build_network(ModelSpec(arch=arch), 10, 32, 0)
    with torch.device("meta"):
        theirs = WideResNet(10) if arch == "wrn_28_10" else ResNet18(10, pre=arch == "preact_resnet18")
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in (ours, theirs)]
    assert counts == [PARAMETERS[arch]] * 2
    # In the same order, of the same shapes: weights of one are weights of the other.
    shapes = [[tensor.shape for tensor in network.state_dict().values()] for network in (ours, theirs)]
    assert sorted(shapes[0]) == sorted(shapes[1])


@pytest.mark.parametrize("activation", ["relu", "hardtanh"])
@pytest.mark.parametrize("arch", PARAMETERS)
def test_each_depth_activation_and_width_changes_them_and_trains(arch: str, activation: str) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    networks = [
        build_network(small(arch, activation=activation, **change), 5, 16, 0)
        for change in ({}, {"depth": 18 if arch != "wrn_28_10" else 16}, {"width": 0.2})
    ]
    outputs = [network(images) for network in networks]
    for i, one in enumerate(outputs):
        assert one.shape == (2, 5) and one.isfinite().all()
        assert not any(torch.allclose(one, other) for other in outputs[i + 1 :])
    outputs[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in networks[0].parameters())


@pytest.mark.parametrize("arch", PARAMETERS)
def test_all_but_the_first_convolution_and_the_last_layer_are_quantized(arch: str) -> None:
    network = build_network(small(arch), 5, 16, 0)
    before = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    quantize_network(network, QuantizationSpec(bits=4))
    plain_ones = [module for module in network.modules() if type(module) is nn.Conv2d]
    assert len(plain_ones) == 1 and before > 1
    assert network(torch.rand(2, 3, 16, 16)).isfinite().all()


def test_a_depth_that_is_not_of_the_family_is_refused() -> None:
    with pytest.raises(SpecError, match=r"expected model\.depth of 8 n \+ 2 .*'preact_resnet18', got 20"):
        build_network(ModelSpec(arch="preact_resnet18", depth=20), 10, 16, 0)


def test_an_estimate_knows_what_a_forward_pass_of_them_costs() -> None:
    # 0.56 billion multiplications, as the papers that use them say.
    for arch in ("resnet18", "preact_resnet18"):
        assert forward_flops(ModelSpec(arch=arch), 32, 10) == pytest.approx(2 * 0.556e9, rel=0.01)
