"""Uniform rounding with a learned scale, differentiated straight through (arXiv 1909.13144)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SMALLEST_SCALE = 1e-6
"""What a scale of smaller magnitude counts as, for values are divided by it."""


class _Quantize(torch.autograd.Function):
    """scale * round(clip(value / scale, lower, 1) * levels) / levels, with the gradients that `quantize` documents."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: Tensor, levels: int, lower: float, stop: bool) -> Tensor:
        positive = scale.abs().clamp_min(SMALLEST_SCALE)
        ratio = value / positive
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(value, scale)
        elif stop and ctx.needs_input_grad[0]:  # of an attack: it asks for nothing but where values were clipped
            ctx.save_for_backward(ratio == ratio.clamp(lower, 1.0))
        ctx.levels, ctx.lower, ctx.stop = levels, lower, stop
        return ratio.clamp_(lower, 1.0).mul_(levels).round_().div_(levels).mul_(positive)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if not ctx.needs_input_grad[1]:
            return gradient * ctx.saved_tensors[0] if ctx.stop else gradient, None, None, None, None
        value, scale = ctx.saved_tensors
        # Computed again, for one activation kept in place of three is worth more than the time.
        ratio = value / scale.abs().clamp_min(SMALLEST_SCALE)
        clipped = ratio.clamp(ctx.lower, 1.0)
        inside = ratio == clipped
        to_value = None
        if ctx.needs_input_grad[0]:
            to_value = gradient * inside if ctx.stop else gradient
        residual = torch.where(inside, torch.round(clipped * ctx.levels) / ctx.levels - ratio, clipped)
        total = (gradient * residual).sum().reshape(scale.shape)
        to_scale = torch.where(scale < 0, -total, total)
        return to_value, to_scale, None, None, None


def quantize(value: Tensor, scale: Tensor, bits: int, *, signed: bool, stop: bool) -> Tensor:
    """Round to evenly spaced levels: s * round(L * clip(v / s, lower, 1)) / L.

    L is 2^(bits - 1) - 1 and lower -1 when signed (2 bits: -s, 0, s), else 2^bits - 1 and 0. The gradient to the scale
    is sum g * (clipped value where v / s is clipped, quantized - v / s elsewhere); that to the value is g. Only the
    scale's magnitude counts: a step of the optimizer may carry a scale through 0 (at 2 bits some do, pushed by filters
    that round to nothing but zeros), and beyond a one-sided bound it would find no way back.

    Args:
        value: Any shape, float.
        scale: Scalar, the largest level.
        bits: At least 2.
        signed: Whether negative values have levels.
        stop: Whether the gradient to the value is 0 where it is clipped.

    Returns:
        As `value`, of at most 2^bits distinct levels.
    """
    levels = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    # A bfloat16 ratio has 8 bits itself, so the rounding is done in float32.
    exact = value.to(torch.promote_types(value.dtype, torch.float32))
    result: Tensor = _Quantize.apply(exact, scale, levels, -1.0 if signed else 0.0, stop)
    return result.to(value.dtype)
