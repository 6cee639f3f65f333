from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import SqueezeExcitation

from ablate.core.errors import SpecError
from ablate.learning.models import (
    build_network,
    frozen_parameters,
    mask_statistics,
    quantize_network,
    transformed_weights,
)
from ablate.learning.models.quantization import QuantizedActivation, QuantizedConv2d, WeightTransform
from ablate.spaces.specs import ModelSpec, QuantizationSpec

SMALL: dict[str, dict[str, Any]] = {
    "resnet20": {"depth": 8},
    "mobilenet_v2": {"width": 0.25},
    "efficientnet_b0": {"width": 0.25},
    "wrn_34_10": {"depth": 10, "width": 0.1},
}
IMAGES = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8)
FAT = {"bits": 4, "fat": True}


def _network(arch: str = "resnet20", activation: str = "relu", **quantization: Any) -> nn.Module:
    spec = ModelSpec(arch=arch, activation=activation, quantization=QuantizationSpec(**quantization), **SMALL[arch])
    return build_network(spec, 10, 16, 0)


def _quantized(network: nn.Module) -> list[QuantizedConv2d]:
    return [module for module in network.modules() if isinstance(module, QuantizedConv2d)]


def _activation_outputs(network: nn.Module) -> list[Tensor]:
    outputs: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
        for module in network.modules()
        if isinstance(module, QuantizedActivation)
    ]
    network(IMAGES)
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize("options", [{}, {"fat": True}, {"weights": "max_abs"}], ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_have_at_most_two_to_the_bits_levels_and_none_is_degenerate(bits: int, options: dict[str, Any]) -> None:
    for layer in _quantized(_network(bits=bits, **options)):
        levels = torch.unique(layer.effective_weight())
        assert 3 <= levels.numel() <= 2**bits
        if bits == 2:
            assert torch.allclose(levels, torch.tensor([-1.0, 0.0, 1.0]) * levels.max())


@pytest.mark.parametrize("activation", ["relu", "hardtanh"])
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_activations_have_at_most_two_to_the_bits_levels_and_none_is_degenerate(
    bits: int, mode: bool, activation: str
) -> None:
    outputs = _activation_outputs(_network(activation=activation, bits=bits).train(mode))
    assert len(outputs) == 7
    for output in outputs:
        assert 2 <= torch.unique(output).numel() <= 2**bits
        # In eval mode a fresh network's first statistics are (0, 1), so that its first activations are small.
        assert (output != 0).float().mean() > (0.01 if mode else 0.0)
        assert bool((output < 0).any()) == (activation == "hardtanh")


@pytest.mark.parametrize("arch", SMALL)
def test_every_network_can_be_quantized_masked_and_trained(arch: str) -> None:
    network = _network(arch, **FAT)
    for layer in _quantized(network):
        assert torch.unique(layer.effective_weight()).numel() <= 16
    loss = F.cross_entropy(network(IMAGES), LABELS)
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("arch", SMALL)
def test_first_convolution_last_layer_and_gates_stay_plain_and_all_else_is_quantized(arch: str) -> None:
    network = _network(arch, bits=4)
    gates = {name + "." for name, module in network.named_modules() if isinstance(module, SqueezeExcitation)}
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    first, *rest = convolutions
    assert type(convolutions[first]) is nn.Conv2d
    for name in rest:
        assert isinstance(convolutions[name], QuantizedConv2d) != any(name.startswith(gate) for gate in gates), name
    assert type([module for module in network.modules() if isinstance(module, nn.Linear)][-1]) is nn.Linear


def test_shortcuts_and_grouped_convolutions_are_quantized() -> None:
    shortcuts = [module for name, module in _network(bits=2).named_modules() if name.endswith("shortcut.0")]
    assert shortcuts and all(isinstance(module, QuantizedConv2d) for module in shortcuts)
    depthwise = [layer for layer in _quantized(_network("mobilenet_v2", **FAT)) if layer.groups > 1]
    assert depthwise and all(layer.effective_weight().shape == layer.weight.shape for layer in depthwise)


def test_a_quantized_convolution_is_a_convolution_with_the_transformed_weights() -> None:
    plain = nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, padding_mode="circular")
    layer = QuantizedConv2d(plain, QuantizationSpec(bits=4))
    images = torch.rand(2, 4, 9, 9)
    assert layer.weight is plain.weight and layer.bias is plain.bias
    transformed = layer.effective_weight().detach()
    plain.weight.data = transformed
    expected = plain(images)
    layer.transformed = transformed
    assert torch.equal(layer(images), expected)


def test_standardized_weights_are_quantized_as_stated() -> None:
    weight = torch.randn(8, 4, 3, 3)
    out = WeightTransform(QuantizationSpec(bits=3), 8)(weight)
    standard = (weight - weight.mean()) / weight.std()
    assert torch.allclose(out, 3 * torch.round((standard / 3).clamp(-1, 1) * 3) / 3)


def test_max_abs_weights_are_scaled_by_the_largest() -> None:
    weight = torch.randn(8, 4, 3, 3)
    transform = WeightTransform(QuantizationSpec(bits=3, weights="max_abs"), 8)
    largest = weight.abs().max()
    assert torch.allclose(transform(weight), largest * torch.round(weight / largest * 3) / 3)
    assert not list(transform.parameters())


def test_mean_and_std_are_constants_for_the_gradient() -> None:
    weight = torch.randn(8, 4, 3, 3, requires_grad=True)
    upstream = torch.randn(8, 4, 3, 3)
    (upstream * WeightTransform(QuantizationSpec(bits=2), 8)(weight)).sum().backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, upstream / weight.detach().std())


def test_32_bits_with_fat_is_masked_but_not_quantized() -> None:
    network = _network(fat=True)
    assert not any(isinstance(module, QuantizedActivation) for module in network.modules())
    assert not any(name.endswith("scale") for name in network.state_dict())
    layer = _quantized(network)[0]
    assert torch.unique(layer.effective_weight()).numel() > layer.weight.numel() // 2


def test_32_bits_with_an_all_pass_mask_is_the_standardize_only_control() -> None:
    masked, control = _network(fat=True).eval(), _network(standardize_only=True).eval()
    with torch.no_grad():
        for name, parameter in masked.named_parameters():
            if name.endswith("mask.weight"):
                parameter.fill_(1e6)
    for one, other in zip(_quantized(masked), _quantized(control), strict=True):
        assert torch.allclose(one.effective_weight(), other.effective_weight(), atol=1e-4)


def test_every_option_changes_the_output() -> None:
    options: list[dict[str, Any]] = [
        {},
        {"standardize_only": True},
        {"fat": True},
        {"bits": 4},
        {"bits": 2},
        {"bits": 4, "weights": "max_abs"},
        {"bits": 4, "activation_bits": 2},
        {"bits": 4, "activation_bits": 32},
        {"activation_bits": 4},
        {"bits": 4, "fat": True},
        {"bits": 4, "fat": True, "weights": "max_abs"},
    ]
    outputs = [_network(**option)(IMAGES) for option in options]
    for i, one in enumerate(outputs):
        assert one.isfinite().all()
        same = [options[j] for j in range(i + 1, len(outputs)) if torch.allclose(one, outputs[j])]
        assert not same, (options[i], same)


@pytest.mark.parametrize("options", [FAT, {"bits": 2}], ids=str)
def test_scales_and_masks_are_learned_and_a_checkpoint_restores_them(options: dict[str, Any]) -> None:
    network = _network(**options)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        with transformed_weights(network):
            F.cross_entropy(network(IMAGES), LABELS).backward()
        optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if name.endswith("scale")} <= changed
    # Wide layers' masks start saturated, where a sigmoid has no slope; the others learn.
    assert any(name.endswith("mask.weight") for name in changed) == ("fat" in options)

    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    restored = _network(**options)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(restored.eval()(IMAGES), network.eval()(IMAGES))


def test_a_network_with_nothing_to_quantize_is_refused() -> None:
    with pytest.raises(SpecError, match=r"expected nn\.Conv2d or activation modules"):
        quantize_network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)), QuantizationSpec(bits=4))


def test_a_module_that_is_used_twice_is_swapped_in_both_places() -> None:
    shared, convolution = nn.ReLU(), nn.Conv2d(4, 4, 1)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), shared, convolution, shared, nn.Flatten(), nn.Linear(4, 2))
    quantize_network(network, QuantizationSpec(bits=4))
    assert isinstance(network[1], QuantizedActivation) and network[3] is network[1]


def test_weights_keep_the_memory_format_that_makes_convolutions_fast() -> None:
    network = _network(**FAT).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for layer in _quantized(network):
        assert layer.effective_weight().is_contiguous(memory_format=torch.channels_last)


def _count_transforms(network: nn.Module) -> list[int]:
    calls: list[int] = []
    for layer in _quantized(network):
        layer.transform.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_weights_are_transformed_once_for_all_forwards_inside() -> None:
    network = _network(**FAT).eval()
    outside = network(IMAGES)
    calls = _count_transforms(network)
    with transformed_weights(network):
        for _ in range(3):
            assert torch.equal(network(IMAGES), outside)
        with frozen_parameters(network):
            assert torch.equal(network(IMAGES), outside)
    assert len(calls) == len(_quantized(network))
    with frozen_parameters(network):
        network(IMAGES), network(IMAGES)
    assert len(calls) == 2 * len(_quantized(network))


@pytest.mark.parametrize("attack_inside_freeze", [True, False])
def test_gradients_are_the_same_with_and_without_the_contexts(attack_inside_freeze: bool) -> None:
    plain, network = _network(**FAT), _network(**FAT)
    F.cross_entropy(plain(IMAGES), LABELS).backward()

    def ascend() -> None:
        images = IMAGES.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(network(images), LABELS), images)

    with transformed_weights(network):
        network.eval()
        if attack_inside_freeze:
            with frozen_parameters(network):
                ascend()
        else:
            ascend()
        network.train()
        F.cross_entropy(network(IMAGES), LABELS).backward()
    for (name, one), other in zip(plain.named_parameters(), network.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad), name


@pytest.mark.parametrize("options", [{}, FAT], ids=str)
def test_frozen_parameters_leave_only_the_gradient_to_the_images(options: dict[str, Any]) -> None:
    network = _network(**options).eval()
    images = IMAGES.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(network(images), LABELS), images)
    fixed = next(network.parameters())
    fixed.requires_grad_(False)
    with frozen_parameters(network):
        assert not network(IMAGES).requires_grad
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(images), LABELS), images)
    assert torch.equal(gradient, expected)
    assert [parameter.requires_grad for parameter in network.parameters()].count(False) == 1
    assert not fixed.requires_grad


def test_contexts_end_clean_after_an_exception() -> None:
    network = _network(**FAT)
    with pytest.raises(KeyError), transformed_weights(network), frozen_parameters(network):
        raise KeyError
    assert all(layer.transformed is None for layer in _quantized(network))
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_mask_statistics_tell_how_open_the_masks_are() -> None:
    network = _network(**FAT)
    start = mask_statistics(network)
    assert 0 < start["fat/mask_min"] < start["fat/mask_mean"] <= 1
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("mask.weight"):
                parameter.zero_()
    assert mask_statistics(network) == {"fat/mask_min": 0.5, "fat/mask_mean": 0.5}
    assert mask_statistics(_network(bits=4)) == {}


def test_autocast_does_not_reach_the_transform() -> None:
    network = _network(**FAT)
    expected = [layer.effective_weight() for layer in _quantized(network)]
    with torch.autocast("cpu", torch.bfloat16), transformed_weights(network):
        for layer, weight in zip(_quantized(network), expected, strict=True):
            assert layer.transformed is not None and torch.equal(layer.transformed, weight)
        assert network(IMAGES).isfinite().all()


def test_transformed_weights_lie_at_one_place_and_their_gradients_reach_the_parameters() -> None:
    network = build_network(ModelSpec(quantization=QuantizationSpec(bits=4, fat=True)), 10, 32, 0)
    layers = [module for module in network.modules() if isinstance(module, QuantizedConv2d)]
    places = []
    for step in range(3):
        direct = [layer.transform(layer.weight) for layer in layers]
        expected = torch.autograd.grad(sum(each.square().sum() for each in direct), layers[0].weight)[0]
        with transformed_weights(network):
            kept = [layer.transformed for layer in layers]
            assert all(torch.equal(one, other) for one, other in zip(kept, direct, strict=True))
            places.append([each.data_ptr() for each in kept])
            found = torch.autograd.grad(sum(each.square().sum() for each in kept), layers[0].weight)[0]
        assert torch.equal(found, expected)
        with torch.no_grad():
            layers[0].weight.mul_(0.5 + step)
    assert places[0] == places[1] == places[2]
