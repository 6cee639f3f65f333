from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablate.learning.models.rounding import quantize

VALUES = torch.linspace(-6.0, 6.0, 2001, dtype=torch.float64)


def _gradients(value: Tensor, scale: float, bits: int, *, signed: bool, stop: bool) -> tuple[Tensor, Tensor, Tensor]:
    value = value.clone().requires_grad_()
    learned = torch.tensor(scale, dtype=value.dtype, requires_grad=True)
    weights = torch.sin(torch.arange(value.numel(), dtype=value.dtype))
    out = quantize(value, learned, bits, signed=signed, stop=stop)
    to_value, to_scale = torch.autograd.grad((weights * out).sum(), (value, learned))
    return weights, to_value, to_scale


@pytest.mark.parametrize("bits, levels", [(2, [-3.0, 0.0, 3.0]), (3, [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])])
def test_signed_levels_are_symmetric_about_zero(bits: int, levels: list[float]) -> None:
    out = quantize(VALUES, torch.tensor(3.0, dtype=torch.float64), bits, signed=True, stop=True)
    assert torch.allclose(torch.unique(out), torch.tensor(levels, dtype=torch.float64))


def test_unsigned_levels_reach_from_zero_to_the_scale() -> None:
    out = quantize(VALUES, torch.tensor(5.0, dtype=torch.float64), 2, signed=False, stop=True)
    assert torch.allclose(torch.unique(out), torch.tensor([0.0, 5 / 3, 10 / 3, 5.0], dtype=torch.float64))


@settings(max_examples=50)
@given(
    bits=st.integers(2, 8),
    signed=st.booleans(),
    scale=st.floats(0.01, 100.0),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_at_most_two_to_the_bits_levels_and_each_value_to_the_nearest(
    bits: int, signed: bool, scale: float, dtype: torch.dtype
) -> None:
    values = (VALUES * scale / 4).to(dtype)
    out = quantize(values, torch.tensor(scale), bits, signed=signed, stop=True)
    assert out.dtype == dtype
    assert torch.unique(out).numel() <= 2**bits
    assert out.abs().max() <= scale * 1.01
    if dtype != torch.bfloat16:
        step = scale / (2 ** (bits - 1) - 1 if signed else 2**bits - 1)
        inside = values.clamp(-scale if signed else 0.0, scale)
        assert (out - inside).abs().max() <= step / 2 * (1 + 1e-4)
        assert torch.allclose(quantize(out, torch.tensor(scale), bits, signed=signed, stop=True), out)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_the_scales_gradient_is_the_slope_where_the_rounding_is_held(bits: int, signed: bool) -> None:
    scale, step = 2.0, 1e-6
    weights, _, to_scale = _gradients(VALUES, scale, bits, signed=signed, stop=False)
    lower = -1.0 if signed else 0.0
    # Rounding is a step function: straight through means that what it adds stays what it was.
    added = quantize(VALUES, torch.tensor(scale, dtype=torch.float64), bits, signed=signed, stop=False) / scale - (
        VALUES / scale
    ).clamp(lower, 1.0)

    def held(s: float) -> Tensor:
        return (weights * s * ((VALUES / s).clamp(lower, 1.0) + added)).sum()

    assert to_scale.item() == pytest.approx(((held(scale + step) - held(scale - step)) / (2 * step)).item(), rel=1e-5)


def test_where_everything_is_clipped_the_scales_gradient_is_the_true_slope() -> None:
    values, scale, step = torch.tensor([4.0, -5.0, 7.0], dtype=torch.float64), 2.0, 1e-6
    weights, _, to_scale = _gradients(values, scale, 2, signed=True, stop=False)

    def loss(s: float) -> Tensor:
        return (weights * quantize(values, torch.tensor(s, dtype=torch.float64), 2, signed=True, stop=False)).sum()

    assert to_scale.item() == pytest.approx(((loss(scale + step) - loss(scale - step)) / (2 * step)).item(), rel=1e-6)


def test_the_gradient_to_a_weight_goes_straight_through_the_rounding_and_the_clip() -> None:
    weights, to_value, _ = _gradients(VALUES, 2.0, 4, signed=True, stop=False)
    assert torch.equal(to_value, weights)


@pytest.mark.parametrize("signed", [True, False])
def test_the_gradient_to_an_activation_ends_at_the_clip(signed: bool) -> None:
    weights, to_value, _ = _gradients(VALUES, 2.0, 4, signed=signed, stop=True)
    inside = (VALUES <= 2.0) & ((-2.0 if signed else 0.0) <= VALUES)
    assert torch.equal(to_value, weights * inside)


def test_the_sign_of_a_scale_means_nothing_and_a_scale_of_zero_is_finite() -> None:
    positive = _gradients(VALUES, 2.0, 4, signed=True, stop=True)
    negative = _gradients(VALUES, -2.0, 4, signed=True, stop=True)
    assert torch.equal(positive[1], negative[1])
    assert torch.equal(positive[2], -negative[2])
    assert all(tensor.isfinite().all() for tensor in _gradients(VALUES, 0.0, 4, signed=True, stop=True))


def test_no_gradient_is_computed_for_a_frozen_scale() -> None:
    value = VALUES.clone().requires_grad_()
    quantize(value, torch.tensor(2.0, dtype=torch.float64), 4, signed=True, stop=True).sum().backward()
    assert value.grad is not None
