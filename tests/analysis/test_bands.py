from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.analysis.bands import THIRDS, band_mask, frequency_radius, project, third_edges, third_mask
from ablate.core.errors import SpecError

SIZES = st.integers(4, 33)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wave(size: int, down: int, across: int) -> torch.Tensor:
    """cos(2 pi (down * y + across * x) / size), a pure frequency."""
    place = torch.arange(size, dtype=torch.float64) / size
    return torch.cos(2 * torch.pi * (down * place[:, None] + across * place[None, :]))[None, None]


@st.composite
def bands(draw: st.DrawFn) -> tuple[int, int, int]:
    size = draw(st.integers(1, 33))
    low = draw(st.integers(0, size // 2))
    return size, low, draw(st.integers(low, size // 2))


@settings(max_examples=50)
@given(band=bands())
def test_a_band_is_symmetric_and_its_part_an_orthogonal_projection(band: tuple[int, int, int]) -> None:
    size, low, high = band
    mask = band_mask(*band)
    unshifted = torch.fft.ifftshift(mask)
    assert torch.equal(unshifted, unshifted.flip(0, 1).roll((1, 1), (0, 1)))
    images = noise(2, 3, size, size)
    part = project(images, mask)
    torch.testing.assert_close(project(part, mask), part)  # idempotent
    rest = images - part
    assert (part * rest).sum().abs() < 1e-9 * images.square().sum()  # orthogonal
    energy = torch.fft.fftshift(torch.fft.fft2(images, norm="ortho"), dim=(-2, -1)).abs().square()
    torch.testing.assert_close(part.square().sum(), energy[..., mask].sum())  # Parseval
    torch.testing.assert_close(project(rest, mask), torch.zeros_like(rest))
    if (low, high) == (0, size // 2):
        torch.testing.assert_close(part, images)


@pytest.mark.parametrize("size", [8, 9])
def test_it_is_the_definition(size: int) -> None:
    images = noise(2, 3, size, size)
    mask = band_mask(size, 2, 3)
    spectrum = torch.fft.fftshift(torch.fft.fft2(images), dim=(-2, -1)) * mask
    expected = torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1)))
    assert expected.imag.abs().max() < 1e-12
    torch.testing.assert_close(project(images, mask), expected.real)


@pytest.mark.parametrize("size", [8, 9])
def test_a_pure_frequency_passes_its_own_band_alone(size: int) -> None:
    for down in range(size // 2 + 1):
        for across in range(-(size // 2), size // 2 + 1):
            radius = max(down, abs(across))
            assert frequency_radius(size)[size // 2 - down, size // 2] == down
            for low, high in ((0, 1), (2, 3), (4, 4)):
                gain = float(low <= radius <= high)
                torch.testing.assert_close(
                    project(wave(size, down, across), band_mask(size, low, high)), gain * wave(size, down, across)
                )


@given(size=SIZES)
def test_the_thirds_share_no_frequency_and_leave_none_out(size: int) -> None:
    masks = torch.stack([third_mask(size, name) for name in THIRDS])
    assert (masks.sum(0) == 1).all() and masks.flatten(1).any(1).all()
    for number, name in enumerate(THIRDS):
        radius = frequency_radius(size)[third_mask(size, name)]
        assert (6 * radius >= number * size).all() and ((6 * radius < (number + 1) * size).all() or name == "high")


def test_the_thirds_of_32_pixels() -> None:
    assert [third_edges(32, name) for name in THIRDS] == [(0, 5), (6, 10), (11, 16)]


def test_types_and_gradients() -> None:
    mask = third_mask(6, "mid")
    assert project(torch.rand(1, 3, 6, 6), mask).dtype == torch.float32
    assert project(torch.rand(1, 3, 6, 6).bfloat16(), mask).dtype == torch.bfloat16
    assert torch.autograd.gradcheck(lambda x: project(x, mask), (noise(1, 2, 6, 6).requires_grad_(),))


@pytest.mark.parametrize("edges", [(3, 2), (5, 5), (2, 5), (-1, 2)])
def test_bands_without_a_frequency_are_refused(edges: tuple[int, int]) -> None:
    with pytest.raises(SpecError, match=rf"expected a band .* 0 to 4 .* \(images of 8 x 8 pixels\), got {edges[0]} to"):
        band_mask(8, *edges)


def test_thirds_that_do_not_exist_are_refused() -> None:
    with pytest.raises(SpecError, match=r"expected images large enough for the band 'mid' .*, got 3 x 3"):
        third_mask(3, "mid")
    with pytest.raises(SpecError, match=r"expected a band of the spectrum, got 'hihg'; did you mean 'high'\?"):
        third_edges(32, "hihg")
