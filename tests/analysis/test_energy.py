from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ablate.analysis.energy import hfi, lfi, lfi_hfi_ratio


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_two_parts_sum_to_the_whole_and_are_orthogonal() -> None:
    x = noise(3, 4, 5, 6) + 1
    torch.testing.assert_close(lfi(x) + hfi(x), x)
    torch.testing.assert_close((lfi(x) * hfi(x)).sum((1, 2, 3)), torch.zeros(3, dtype=torch.float64))


def test_against_the_papers_matrices() -> None:
    """[B, C, H, W] as n-length signals of C channels: LFI = 1/n 1 1^T x, HFI = (I - 1/n 1 1^T) x."""
    x = noise(3, 4, 5, 6) + 0.5
    n = 30
    signals = x.flatten(2).transpose(1, 2)
    ones = torch.ones(n, 1, dtype=torch.float64)
    projector = ones @ ones.T / n
    low, high = projector @ signals, (torch.eye(n, dtype=torch.float64) - projector) @ signals
    torch.testing.assert_close(lfi(x).flatten(2).transpose(1, 2), low)
    torch.testing.assert_close(hfi(x).flatten(2).transpose(1, 2), high)
    ratios = torch.linalg.matrix_norm(low) / torch.linalg.matrix_norm(high)
    torch.testing.assert_close(lfi_hfi_ratio(x), ratios.mean())


def test_low_frequencies_are_the_zero_frequency_of_the_dft() -> None:
    x = noise(2, 3, 6, 6)
    spectrum = torch.fft.fft2(x)
    spectrum[..., 1:, :] = 0
    spectrum[..., :, 1:] = 0
    torch.testing.assert_close(lfi(x), torch.fft.ifft2(spectrum).real)


def test_examples_are_averaged_after_the_ratio() -> None:
    x = noise(4, 3, 5, 5) + torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(4, 1, 1, 1)
    each = torch.stack([lfi_hfi_ratio(example[None]) for example in x])
    torch.testing.assert_close(lfi_hfi_ratio(x), each.mean())


@given(scale=st.floats(1e-3, 1e3))
def test_scale_does_not_matter(scale: float) -> None:
    x = noise(2, 3, 5, 5) + 1
    torch.testing.assert_close(lfi_hfi_ratio(scale * x), lfi_hfi_ratio(x))


def test_known_values() -> None:
    half = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])  # mean 1/2, deviation 1/2
    assert lfi_hfi_ratio(half).item() == pytest.approx(1.0)
    assert lfi_hfi_ratio(half - 0.5).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e-20, 1e20])
def test_finite_for_whatever_is(dtype, value) -> None:
    ratio = lfi_hfi_ratio(torch.full((2, 3, 4, 4), value, dtype=dtype))
    assert math.isfinite(ratio) and ratio >= 0
    assert (ratio > 1e5) == (value > 0)


def test_one_flat_example_beside_others_is_finite_and_nothing_else_changes() -> None:
    x = noise(2, 3, 4, 4).float()
    zero = torch.zeros_like(x[:1])
    torch.testing.assert_close(lfi_hfi_ratio(torch.cat([x, zero])), lfi_hfi_ratio(x) * 2 / 3)
