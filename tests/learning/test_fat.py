from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ablate.learning.models.fat import FrequencyMask

SHAPES = [(4, 3, 3, 3), (6, 1, 5, 5), (5, 8, 1, 1), (3, 1, 1, 1)]


def _weight(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _module(filters: int) -> FrequencyMask:
    return FrequencyMask(filters).double()


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_stated_formula_on_the_whole_complex_spectrum(shape: tuple[int, ...]) -> None:
    weight, module = _weight(shape), _module(shape[0])
    with torch.no_grad():
        module.weight.add_(0.1 * torch.randn_like(module.weight))
    spectrum = torch.fft.fft(weight.flatten(1))
    mask = torch.sigmoid(module.weight @ spectrum.abs())
    back = torch.fft.ifft(mask * spectrum)
    assert back.imag.abs().max() < 1e-12
    assert torch.allclose(module(weight), back.real.reshape(shape))
    assert torch.allclose(module.mask(weight), mask)


def test_every_mask_starts_from_the_mean_magnitude_over_the_filters() -> None:
    weight, module = _weight((4, 3, 3, 3)), _module(4)
    mean = torch.fft.fft(weight.flatten(1)).abs().mean(dim=0)
    assert torch.allclose(module.mask(weight), torch.sigmoid(mean).expand(4, -1))


@pytest.mark.parametrize("strength", [-1e4, -1.0, 0.0, 1.0, 1e4])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_mask_stays_in_zero_exclusive_to_one(shape: tuple[int, ...], strength: float) -> None:
    module = _module(shape[0])
    with torch.no_grad():
        module.weight.fill_(strength)
    mask = module.mask(_weight(shape))
    assert (mask > 0).all() and (mask <= 1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_that_lets_all_pass_is_the_identity(shape: tuple[int, ...]) -> None:
    weight, module = _weight(shape), _module(shape[0])
    with torch.no_grad():
        module.weight.fill_(1e6)
    assert torch.allclose(module(weight), weight, atol=1e-12)


def test_the_mask_only_takes_away() -> None:
    weight = _weight((4, 3, 3, 3))
    assert _module(4)(weight).square().sum() < weight.square().sum()


def test_wider_layers_start_more_saturated() -> None:
    masks = [_module(8).mask(_weight((8, channels, 3, 3))).mean() for channels in (1, 4, 64)]
    assert masks[0] < masks[1] < masks[2]
    assert masks[2] > 0.999


def test_gradients_agree_with_finite_differences() -> None:
    weight, module = _weight((3, 2, 3, 3)).requires_grad_(), _module(3)

    def masked(linear: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(module, {"weight": linear}, (weight,))
        return result

    assert torch.autograd.gradcheck(masked, (module.weight, weight))


def test_all_zero_weights_have_finite_gradients() -> None:
    weight, module = torch.zeros(3, 2, 3, 3, dtype=torch.float64, requires_grad=True), _module(3)
    module(weight).sum().backward()
    assert weight.grad is not None and weight.grad.isfinite().all()
