"""Convolutions with their sum and activation in one operation of a CPU: what the parts say, with their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.learning.models import build_network, fused
from ablate.learning.models.folding import FoldedConv2d, FoldedNetwork, as_searched
from ablate.learning.models.fused import FusedConv2d, can_fuse
from ablate.spaces.specs import ModelSpec

needs_fusing = pytest.mark.skipif(not can_fuse(), reason="this CPU or torch has no fused convolution in bfloat16")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def convolution(stride: int = 1, kernel: int = 3, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(16, 32, kernel, stride=stride, padding=padding, dilation=dilation).requires_grad_(False)
    conv.weight.copy_(random(*conv.weight.shape, seed=1) / (4 * kernel))
    conv.bias.copy_(random(32, seed=2) / 4)  # type: ignore[union-attr]
    return conv.to(torch.bfloat16)


@pytest.mark.parametrize("how", [{}, {"stride": 2}, {"kernel": 1, "stride": 2}, {"dilation": 2}], ids=str)
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@needs_fusing
def test_it_is_the_convolution_the_sum_and_the_relu_with_their_gradients(
    how: dict[str, int], added: bool, layout: torch.memory_format
) -> None:
    conv, x = convolution(**how), random(5, 16, 9, 9).to(torch.bfloat16).contiguous(memory_format=layout)
    residual = random(*conv(x).shape, seed=3).to(torch.bfloat16).contiguous(memory_format=layout) if added else None

    def gradients(made: Tensor, *of: Tensor | None) -> tuple[Tensor, ...]:
        wanted = [each for each in of if each is not None]
        return torch.autograd.grad((made * random(*made.shape, seed=4).to(made.dtype)).sum(), wanted)

    given = [None if each is None else each.detach().requires_grad_() for each in (x, residual)]
    exact = [None if each is None else each.detach().double().requires_grad_() for each in (x, residual)]
    found = FusedConv2d(conv)(*given)
    assert "ConvAddRelu" in str(found.grad_fn)
    wide = F.conv2d(
        exact[0],  # type: ignore[arg-type]
        conv.weight.double(),
        conv.bias.double(),  # type: ignore[union-attr]
        conv.stride,
        conv.padding,
        conv.dilation,
    )
    wanted = F.relu(wide if exact[1] is None else wide + exact[1])
    torch.testing.assert_close(found.double(), wanted, rtol=1e-2, atol=1e-3)
    # Where the ReLU is at its edge the two may be on different sides of it.
    clear = wide if exact[1] is None else wide + exact[1]
    assert (clear.abs() > 1e-3).double().mean() > 0.99
    for one, other in zip(gradients(found, *given), gradients(wanted, *exact), strict=True):
        assert (one.double() - other).norm() < 0.02 * other.norm()


@needs_fusing
@pytest.mark.parametrize("shape", [(1, 32, 1, 1), (5, 32, 9, 1), (1, 1, 1, 1)], ids=str)
def test_what_does_not_fit_is_asked_part_by_part(shape: tuple[int, ...]) -> None:
    conv, x = convolution(), random(5, 16, 9, 9).to(torch.bfloat16)
    residual = random(*shape).to(torch.bfloat16)
    assert torch.equal(FusedConv2d(conv)(x, residual), F.relu(conv(x) + residual))
    wider = random(5, 32, 9, 9)  # of float32
    assert torch.equal(FusedConv2d(conv)(x, wider), F.relu(conv(x) + wider))
    assert FusedConv2d(conv)(x[:0]).shape == (0, 32, 9, 9)
    whole = conv.float()
    assert torch.equal(FusedConv2d(whole)(x.float()), F.relu(whole(x.float())))


def test_images_of_one_pixel_are_asked_about_too() -> None:
    conv, x = convolution(kernel=1), random(5, 16, 1, 1).to(torch.bfloat16)
    residual = random(5, 32, 1, 1).to(torch.bfloat16)
    torch.testing.assert_close(FusedConv2d(conv)(x, residual), F.relu(conv(x) + residual), rtol=0.02, atol=0.02)


def resnet(**settings: Any) -> nn.Module:
    network = build_network(ModelSpec.model_validate({"width": 0.5, **settings}), 10, 16, 0)
    network.train()(torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    return network.eval()


def kinds(network: nn.Module | None) -> list[str]:
    assert network is not None
    return [type(module).__name__ for module in network.modules()]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_nothing_is_fused() -> None:
    assert "FusedConv2d" not in kinds(as_searched(resnet().cuda(), 16, "bfloat16"))


def test_only_what_searches_is_fused_and_all_of_it() -> None:
    network = resnet()
    found = kinds(as_searched(network, 16, "bfloat16"))
    assert found.count("FusedConv2d") == 19 and "ReLU" not in found  # of 21: two shortcuts have no activation
    assert found.count("FoldedConv2d") == 21
    assert "FusedConv2d" not in kinds(FoldedNetwork(network, torch.bfloat16))  # what trains


def test_what_others_look_at_stays() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 16, 3, padding="same"), nn.BatchNorm2d(16)
            self.second, self.other = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
            self.third, self.its = nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.BatchNorm2d(16)
            self.relu, self.last = nn.ReLU(), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            first = self.relu(self.norm(self.conv(x)))  # its padding is no number
            second = self.other(self.second(first))
            third = self.relu(self.its(self.third(self.relu(second) + second)))  # a convolution of groups
            return self.last(third.mean((2, 3)))

    network, images = Branching().eval(), torch.rand(6, 3, 16, 16)
    search = as_searched(network, 16, "bfloat16")
    assert search is not None and "FusedConv2d" not in kinds(search)
    torch.testing.assert_close(search(images), network(images), rtol=0.05, atol=0.05)


class Unusual(nn.Module):
    """One block, with a sum that something else touches."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.last = kind, nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 10)
        self.conv, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.relu, self.at_once = nn.ReLU(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        made = self.norm(self.conv(x))
        if self.kind == "written into afterwards":
            total = made + x
            z = self.at_once(x)
            made = self.relu(total) + z
        elif self.kind == "a number":
            made = self.relu(made + x.size(0) * 0.01)
        elif self.kind == "itself":
            made = self.relu(made + made)
        else:  # twice
            made = self.relu(self.norm(self.conv(self.relu(made + x))) + x)
        return self.last(made.mean((2, 3)))


@pytest.mark.parametrize("kind", ["written into afterwards", "a number", "itself", "twice"])
def test_networks_of_unusual_blocks_are_searched_as_they_are(kind: str) -> None:
    torch.manual_seed(0)
    network, images = Unusual(kind), torch.rand(16, 3, 16, 16)
    network.train()(images)
    network.eval().requires_grad_(False)
    search = as_searched(network, 16, "bfloat16")
    assert search is not None and "FoldedConv2d" in kinds(search)
    exact, found = network(images), search(images)
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()


def test_without_the_operation_the_parts_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    search, images = as_searched(resnet(), 16, "bfloat16"), torch.rand(6, 3, 16, 16)
    assert search is not None
    with torch.no_grad():
        at_once = search(images)
        monkeypatch.setattr(fused, "can_fuse", lambda: False)
        one_by_one = search(images)
    torch.testing.assert_close(at_once, one_by_one, rtol=0.05, atol=0.05)
    assert can_fuse() is not torch.equal(at_once, one_by_one)


def test_an_operation_that_is_not_there_or_says_another_thing_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*parts: Any) -> Tensor:
        raise RuntimeError("not on this CPU")

    for wrong in (fails, lambda x, residual, conv: conv(x)):
        monkeypatch.setattr(fused, "conv_add_relu", wrong)
        can_fuse.cache_clear()
        assert not can_fuse()
    can_fuse.cache_clear()


def test_it_may_be_asked_first_within_autocast() -> None:
    without = can_fuse()
    can_fuse.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert can_fuse() == without


def test_a_folded_convolution_is_what_is_fused() -> None:
    search = as_searched(resnet(), 16, "bfloat16")
    assert search is not None
    assert all(type(module.conv) is FoldedConv2d for module in search.modules() if isinstance(module, FusedConv2d))
