from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ablate.analysis.lowpass import filtered, highpass, lowpass, mask
from ablate.core.errors import SpecError
from ablate.core.filters import Filter


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wave(size: int, down: int, across: int) -> torch.Tensor:
    """cos(2 pi (down * y + across * x) / size), a pure frequency."""
    place = torch.arange(size, dtype=torch.float64) / size
    return torch.cos(2 * torch.pi * (down * place[:, None] + across * place[None, :]))[None, None]


@pytest.mark.parametrize("degree", [32, 28, 24, 20, 16])
def test_the_papers_masks(degree) -> None:
    ones = mask(32, degree).nonzero()
    assert len(ones) == degree * degree
    assert ones.min() == 16 - degree // 2 and ones.max() == 16 + degree // 2 - 1
    assert set(mask(32, degree).unique().tolist()) <= {0.0, 1.0}


@given(size=st.integers(1, 40), data=st.data())
def test_every_mask_is_a_square_with_the_zero_frequency_in_it(size: int, data: st.DataObject) -> None:
    degree = data.draw(st.integers(1, size))
    kept = mask(size, degree)
    assert kept.shape == (size, size) and kept.sum() == degree * degree
    assert kept[size // 2, size // 2] == 1
    rows = kept.any(1).nonzero().flatten()
    assert rows[-1] - rows[0] == degree - 1


def test_the_whole_spectrum_is_the_identity() -> None:
    images = noise(2, 3, 8, 8)
    assert lowpass(images, 8) is images


@pytest.mark.parametrize("size", [7, 8])
def test_it_is_the_definition(size) -> None:
    images = noise(2, 3, size, size)
    for degree in range(1, size + 1):
        spectrum = torch.fft.fftshift(torch.fft.fft2(images), dim=(-2, -1)) * mask(size, degree)
        expected = torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1))).real
        torch.testing.assert_close(lowpass(images, degree), expected)


@pytest.mark.parametrize("degree", [4, 5])
def test_inside_passes_outside_is_gone_and_the_unpaired_edge_is_halved(degree) -> None:
    """Degree 4 keeps the frequencies -2 ... 1, degree 5 keeps -2 ... 2."""
    edge = 0.5 if degree == 4 else 1.0
    gains = {(0, 0): 1.0, (1, 1): 1.0, (0, 1): 1.0, (2, 0): edge, (0, 2): edge, (2, 2): edge, (3, 0): 0.0, (1, 3): 0.0}
    for frequency, gain in gains.items():
        torch.testing.assert_close(lowpass(wave(8, *frequency), degree), gain * wave(8, *frequency))


def test_the_last_frequency_of_an_even_size_has_no_partner_to_lose() -> None:
    """Frequency -4 of size 8 is its own conjugate: at degree 8 whole, at degree 7 gone."""
    torch.testing.assert_close(lowpass(wave(8, 4, 0), 7), torch.zeros(1, 1, 8, 8, dtype=torch.float64))


def test_the_mean_of_every_channel_stays() -> None:
    images = noise(2, 3, 8, 8)
    for degree in range(1, 9):
        torch.testing.assert_close(lowpass(images, degree).mean((2, 3)), images.mean((2, 3)))


def test_linear_and_per_channel_and_per_example() -> None:
    first, second = noise(2, 3, 8, 8), noise(2, 3, 8, 8, seed=1)
    torch.testing.assert_close(lowpass(2 * first - second, 5), 2 * lowpass(first, 5) - lowpass(second, 5))
    torch.testing.assert_close(lowpass(first[1:, 2:], 5), lowpass(first, 5)[1:, 2:])


def test_odd_degrees_are_projections_and_degrees_nest() -> None:
    images = noise(2, 3, 9, 9)
    torch.testing.assert_close(lowpass(lowpass(images, 5), 5), lowpass(images, 5))
    torch.testing.assert_close(lowpass(lowpass(images, 7), 3), lowpass(images, 3))


def test_smaller_degrees_keep_less_energy() -> None:
    images = noise(4, 3, 8, 8)
    energies = [lowpass(images, degree).square().sum() for degree in range(1, 9)]
    assert all(less < more for less, more in itertools.pairwise(energies))


def test_it_is_not_clipped() -> None:
    images = (noise(4, 3, 8, 8) > 0).double()
    filtered = lowpass(images, 6)
    assert filtered.min() < 0 and filtered.max() > 1


def test_gradients_pass_through_the_filter() -> None:
    images = noise(1, 2, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: lowpass(x, 4), (images,))


def test_types_and_rectangles() -> None:
    assert lowpass(torch.rand(1, 3, 8, 8), 4).dtype == torch.float32
    assert lowpass(noise(1, 3, 8, 12), 4).shape == (1, 3, 8, 12)


@pytest.mark.parametrize("degree", [0, 9, -2])
def test_impossible_degrees_are_refused(degree) -> None:
    for call in (lambda: mask(8, degree), lambda: lowpass(torch.zeros(1, 1, 8, 8), degree)):
        with pytest.raises(
            SpecError, match=rf"expected a low-pass degree from 1 to the image's size \(8\), got {degree}"
        ):
            call()


@pytest.mark.parametrize("size", [8, 9])
def test_high_pass_is_what_low_pass_takes_away(size: int) -> None:
    images = noise(2, 3, size, size)
    for degree in range(1, size):
        torch.testing.assert_close(highpass(images, degree) + lowpass(images, degree), images)
        assert highpass(images, degree).mean((2, 3)).abs().max() < 1e-12  # without the mean of any channel
        assert torch.equal(filtered(images, Filter("highpass", degree)), highpass(images, degree))
        assert torch.equal(filtered(images, Filter("lowpass", degree)), lowpass(images, degree))
    assert filtered(images, None) is images


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 9), (8, 12)])
def test_high_pass_with_the_mean_differs_from_that_without_by_the_mean_of_each_channel_alone(
    height: int, width: int
) -> None:
    images = noise(2, 3, height, width) + torch.arange(6.0, dtype=torch.float64).view(2, 3, 1, 1)
    mean = images.mean((2, 3), keepdim=True)
    for degree in range(1, min(height, width)):
        kept = highpass(images, degree, keep_mean=True)
        torch.testing.assert_close(kept.mean((2, 3), keepdim=True), mean)
        torch.testing.assert_close(kept - highpass(images, degree), mean.expand_as(images))
        assert torch.equal(filtered(images, Filter("highpass", degree, keep_mean=True)), kept)
        torch.testing.assert_close(highpass(mean.expand_as(images), degree, keep_mean=True), mean.expand_as(images))


def test_high_pass_keeps_what_lies_outside_and_half_of_an_unpaired_edge() -> None:
    for frequency, gain in {(0, 0): 0.0, (1, 1): 0.0, (2, 0): 0.5, (3, 0): 1.0, (1, 3): 1.0}.items():
        torch.testing.assert_close(highpass(wave(8, *frequency), 4), gain * wave(8, *frequency))


@pytest.mark.parametrize("degree", [0, 8, 9])
def test_high_pass_degrees_that_leave_nothing_are_refused(degree: int) -> None:
    with pytest.raises(SpecError, match=rf"expected a high-pass degree from 1 to below .* \(8\), got {degree}"):
        filtered(noise(1, 1, 8, 8), Filter("highpass", degree))
