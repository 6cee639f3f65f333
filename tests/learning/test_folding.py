"""A folded network says what the network says, as long as its weights are taken over."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ablate.core.modes import evaluating
from ablate.learning.models import build_network, folding, frozen_parameters
from ablate.learning.models.folding import FoldedConv2d, FoldedNetwork, InParts, as_measured, fold_normalization
from ablate.learning.models.quantization import unrounded_activations
from ablate.spaces.specs import ModelSpec

ARCHS = ("resnet20", "mobilenet_v2", "efficientnet_b0", "wrn_34_10", "resnet18", "preact_resnet18")


def moved(network: nn.Module, seed: int) -> nn.Module:
    """The network with other weights and averages than its first ones, as after some training."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def built(arch: str, **more: object) -> nn.Module:
    width = {"wrn_34_10": 0.1, "resnet18": 1 / 16, "preact_resnet18": 1 / 16}.get(arch, 0.25)
    depth = {"wrn_34_10": 10, "resnet20": 8, "resnet18": 10, "preact_resnet18": 10}.get(arch)
    spec = ModelSpec.model_validate({"arch": arch, "width": width, "depth": depth, **more})
    return moved(build_network(spec, 10, 16, 0), 0)


@pytest.mark.parametrize("activation", ["relu", "hardtanh"])
@pytest.mark.parametrize("arch", ARCHS)
def test_it_says_the_same_with_the_same_gradient(arch: str, activation: str) -> None:
    network = built(arch, activation=activation)
    folded = fold_normalization(network, 16)
    assert folded is not None
    assert any(isinstance(module, FoldedConv2d) for module in folded.modules())
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    told, expected = folded(images), network(images)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(told, expected, rtol=1e-4, atol=1e-5 * scale)
    ours, theirs = (torch.autograd.grad(logits.square().sum(), images)[0] for logits in (told, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("arch", ["resnet20", "mobilenet_v2"])
def test_with_quantized_weights_and_masks_it_says_the_same_before_rounding(arch: str) -> None:
    network = built(arch, quantization={"bits": 4, "fat": True})
    network.train()
    for _ in range(50):  # with averages that fit, or a standardized network saturates
        network(torch.rand(8, 3, 16, 16))
    network.eval()
    with frozen_parameters(network), unrounded_activations(network), torch.no_grad():
        folded = fold_normalization(network, 16)
        assert folded is not None
        images = torch.rand(3, 3, 16, 16)
        expected = network(images)
        assert (folded(images) - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_it_knows_of_new_weights_once_it_is_told() -> None:
    network = built("resnet20")
    folded = fold_normalization(network, 16)
    assert folded is not None
    images = torch.rand(2, 3, 16, 16)
    before = folded(images)
    moved(network, 5)
    assert torch.equal(folded(images), before)
    folded.refresh()
    torch.testing.assert_close(folded(images), network(images), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(folded(images), before, rtol=1e-2)


def test_folding_leaves_the_network_as_it_was() -> None:
    network = built("resnet20")
    network.train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    fold_normalization(network, 16)
    assert network.training and all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)) if x.mean() > 0 else self.conv(x)
        return x.mean(dim=(2, 3))


class Twice(nn.Module):
    """One convolution in two places, one of them without a normalization: it must not be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return (self.act(self.norm(y)) + self.act(y) + self.conv(y) + self.norm(y)).mean(dim=(2, 3))


def test_a_network_that_branches_on_values_is_asked_itself() -> None:
    network = Branching().eval()
    assert fold_normalization(network, 8) is None
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(as_measured(network, 8)(images), network(images))


def test_what_is_used_twice_is_not_overwritten() -> None:
    network = moved(Twice(), 0)
    folded = fold_normalization(network, 8)
    assert folded is not None
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(folded(images), network(images))


@pytest.mark.parametrize("arch", ["resnet20", "mobilenet_v2", "wrn_34_10"])
def test_a_network_before_its_training_folds_however_it_is_quantized(arch: str) -> None:
    spec = {"arch": arch, "quantization": {"bits": 4, "fat": True}, "width": 0.25 if arch != "wrn_34_10" else 0.1}
    network = build_network(ModelSpec.model_validate(spec), 10, 16, 0)
    assert fold_normalization(network, 16) is not None


@pytest.mark.parametrize("arch", ["resnet20", "mobilenet_v2"])
def test_weights_folded_in_bfloat16_are_what_autocast_makes_of_them(arch: str) -> None:
    network = built(arch)
    plain, cast = fold_normalization(network, 16), fold_normalization(network, 16, torch.bfloat16)
    assert plain is not None and cast is not None
    images = torch.rand(3, 3, 16, 16)
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(plain(images), cast(images))
        moved(network, 1)
        for folded in (plain, cast):
            folded.refresh()


def test_a_folding_that_says_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    original = FoldedNetwork.refresh

    def wrong(self: FoldedNetwork) -> None:
        original(self)
        next(module for module in self.modules() if isinstance(module, FoldedConv2d)).bias.add_(1.0)

    monkeypatch.setattr(FoldedNetwork, "refresh", wrong)
    assert fold_normalization(built("resnet20"), 16) is None


def test_quantized_activations_are_measured_as_they_are() -> None:
    assert not isinstance(as_measured(built("resnet20", quantization={"bits": 4}), 16).network, folding.FoldedNetwork)
    assert isinstance(as_measured(built("resnet20"), 16).network, folding.FoldedNetwork)


@pytest.mark.parametrize("count", [1, 5, 8, 17])
def test_parts_are_put_together_again(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "PART_FLOAT32", 8)
    network = built("resnet20")
    seen: list[int] = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    images = torch.rand(count, 3, 16, 16, requires_grad=True)
    with evaluating(network):
        told = InParts(network)(images)
        assert max(seen) <= 8 and sum(seen) == count
        torch.testing.assert_close(told, network(images))
        assert torch.autograd.grad(told.sum(), images)[0].shape == images.shape


class Residual(nn.Module):
    """Adds what it is told to a convolution's output, with its normalization."""

    def __init__(self, second: Callable[[Tensor, Tensor], Tensor | float]) -> None:
        super().__init__()
        self.conv, self.norm, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), second

    def forward(self, x: Tensor) -> Tensor:
        first = self.norm(self.conv(x))
        return torch.relu(first + self.second(x, first)).flatten(1)


@pytest.mark.parametrize(
    "second",
    [
        lambda x, first: x,
        lambda x, first: first,
        lambda x, first: first * 2,
        lambda x, first: x[:, :1],  # of another shape
        lambda x, first: x.double(),
        lambda x, first: 1.5,
    ],
)
def test_sums_are_made_in_place_where_they_fit_and_nowhere_else(second: Callable[..., Tensor | float]) -> None:
    network, images = Residual(second).eval(), torch.rand(4, 3, 8, 8)
    folded = fold_normalization(network, 8)
    assert folded is not None
    kept = images.clone()
    told = folded(images.requires_grad_())
    torch.testing.assert_close(told, network(images), rtol=1e-4, atol=1e-5)
    assert torch.equal(images.detach(), kept)
    (ours,) = torch.autograd.grad(told.square().sum(), images)
    (expected,) = torch.autograd.grad(network(images).square().sum(), images)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
