"""Hardtanh: compiled it is another code, and the same function."""

from __future__ import annotations

import torch

from ablate.learning.models.layers import Hardtanh


def test_compiled_hardtanh_has_the_gradient_of_torchs_also_at_its_bounds() -> None:
    values = torch.tensor([-3.0, -1.0, -0.999, 0.0, 0.5, 1.0, 1.001, float("inf"), -float("inf")], requires_grad=True)
    expected = torch.nn.functional.hardtanh(values)
    (slope,) = torch.autograd.grad(expected.sum(), values)
    for module in (Hardtanh(), torch.compile(Hardtanh(), backend="aot_eager")):
        told = module(values)
        assert torch.equal(told, expected)
        assert torch.equal(torch.autograd.grad(told.sum(), values)[0], slope)
