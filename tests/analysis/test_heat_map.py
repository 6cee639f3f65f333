from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ablate.analysis.bands import THIRDS, third_mask
from ablate.analysis.heat_map import error_map, fourier_basis, frequency_classes, perturbed
from ablate.analysis.registry import AnalysisContext, AnalysisResult, get_analysis
from ablate.core.errors import MeasurementError, SpecError


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("size", "count"), [(32, 514), (8, 34), (9, 41), (1, 1)])
def test_every_frequency_belongs_to_one_class(size: int, count: int) -> None:
    classes = frequency_classes(size)
    assert len(classes) == count and classes[0] == (0, 0)
    covered = {(u % size, v % size) for u, v in classes} | {(-u % size, -v % size) for u, v in classes}
    assert len(covered) == size * size


@pytest.mark.parametrize("size", [8, 9])
def test_basis_vectors_are_real_and_orthonormal_and_have_one_frequency(size: int) -> None:
    classes = frequency_classes(size)
    waves = torch.stack([fourier_basis(size, frequency) for frequency in classes])
    assert waves.dtype == torch.float64
    flat = waves.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(len(classes), dtype=torch.float64))
    for (u, v), wave in zip(classes, waves, strict=True):
        energy = torch.fft.fft2(wave, norm="ortho").abs().square()
        own = {(u % size, v % size), (-u % size, -v % size)}
        assert sum(float(energy[at]) for at in own) == pytest.approx(1.0)


def test_waves_of_32_pixels_keep_their_digits() -> None:
    waves = torch.stack([fourier_basis(32, frequency) for frequency in frequency_classes(32)]).flatten(1)
    assert (waves @ waves.T - torch.eye(514, dtype=torch.float64)).abs().max() < 1e-12


def test_a_wave_has_its_norm_in_each_channel_and_one_sign_by_image_and_channel() -> None:
    images = torch.full((64, 3, 8, 8), 0.5, dtype=torch.float64)
    wave = fourier_basis(8, (1, -3))
    added = perturbed(images, wave, 0.5, 0, (1, -3), 0) - images
    torch.testing.assert_close(added.norm(dim=(2, 3)), torch.full((64, 3), 0.5, dtype=torch.float64))
    signs = added[:, :, 0, 0].sign()
    torch.testing.assert_close(added, signs[:, :, None, None] * 0.5 * wave)
    assert 0.35 < (signs > 0).double().mean() < 0.65 and len(signs.unique(dim=0)) == 8
    later = perturbed(images[10:], wave, 0.5, 0, (1, -3), 10) - images[10:]
    assert torch.equal(later, added[10:])  # whichever batch it is in
    assert not torch.equal(perturbed(images, wave, 0.5, 1, (1, -3), 0) - images, added)
    clipped = perturbed(images, wave, 100.0, 0, (1, -3), 0)
    assert clipped.min() == 0 and clipped.max() == 1


@pytest.mark.parametrize("size", [8, 9])
def test_the_map_of_a_linear_network_is_its_closed_form(size: int) -> None:
    """Without clipping a wave moves the logits by its sign times the norm times the weights' Fourier coefficients."""
    weights, images, norm = noise(5, 3, size, size), 0.5 + 0.01 * noise(30, 3, size, size, seed=1), 1.0
    labels = torch.arange(30) % 5

    def network(x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x, weights)

    found = error_map(network, images, labels, norm=norm, seed=3, batch_size=7)
    coefficients = torch.fft.fft2(weights).real
    for u, v in frequency_classes(size):
        own = (u % size, v % size) == (-u % size, -v % size)
        length = size if own else size / math.sqrt(2)  # of the wave before it is scaled
        signs = (perturbed(images, fourier_basis(size, (u, v)), norm, 3, (u, v), 0) - images)[:, :, 0, 0].sign()
        moved = network(images) + norm / length * signs @ coefficients[:, :, u % size, v % size].T
        expected = 100.0 * (moved.argmax(1) != labels).double().mean()
        for sign in (1, -1):
            at = (sign * u + size // 2) % size, (sign * v + size // 2) % size
            assert found[at] == pytest.approx(float(expected)), (u, v)
    again = error_map(network, images, labels, norm=norm, seed=3, batch_size=30)
    assert torch.equal(again, found)


class LooksAt(nn.Module):
    """Is right where the images' energy in a band is small, so it errs under waves of that band alone."""

    def __init__(self, size: int, band: str, broken: Callable[[Tensor], Tensor] = lambda error: error) -> None:
        super().__init__()
        self.mask, self.broken = third_mask(size, band), broken

    def forward(self, x: Tensor) -> Tensor:
        power = torch.fft.fftshift(torch.fft.fft2(x - 128 / 255), dim=(-2, -1)).abs().square()
        energy = (power * self.mask).sum(dim=(1, 2, 3))
        return self.broken(torch.stack([torch.full_like(energy, 1e-3), energy], dim=1))


def context_of(network: nn.Module, size: int, told: list[tuple[int, int]], count: int = 6) -> AnalysisContext:
    images = torch.full((count, 3, size, size), 128, dtype=torch.uint8)
    settings = {"heat_map_norm": 0.5, "heat_map_images": 4}
    labels = torch.zeros(count, dtype=torch.int64)
    return AnalysisContext(
        network, images, labels, lambda at: images[at], 0, 3, settings=settings, progress=lambda *at: told.append(at)
    )


def run(network: nn.Module, size: int = 12) -> tuple[AnalysisResult, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    return get_analysis("heat_map")(context_of(network.eval(), size, told)), told


@pytest.mark.parametrize("band", THIRDS)
def test_errors_lie_where_the_network_looks(band: str) -> None:
    found, told = run(LooksAt(12, band))
    expected = {f"heat_map/error_{name}": 100.0 * (name == band) for name in THIRDS}
    difference = {"low": 100.0, "mid": 0.0, "high": -100.0}[band]
    assert found.scalars == {**expected, "heat_map/error_clean": 0.0, "heat_map/low_minus_high": difference}
    assert torch.equal(torch.from_numpy(found.arrays["error"]) == 100, third_mask(12, band))
    assert told[0] == (1, len(frequency_classes(12))) and told[-1] == (74, 74)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_analysis_is_the_map_of_its_first_images_with_the_trainings_seed(seed: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3)).eval()
    with torch.no_grad():
        network[1].weight.copy_(noise(3, 3 * 64))
    images = (torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 256).to(torch.uint8)
    labels = torch.arange(40) % 3
    settings = {"heat_map_norm": 1.0, "heat_map_images": 30}
    context = AnalysisContext(network, images, labels, lambda at: images[at], seed, 7, settings=settings)
    found = get_analysis("heat_map")(context)
    expected = error_map(network, images[:30], labels[:30], norm=1.0, seed=seed, batch_size=30)
    torch.testing.assert_close(torch.from_numpy(found.arrays["error"]).double(), expected)
    means = {name: float(expected[third_mask(8, name)].mean()) for name in THIRDS}
    assert found.scalars == pytest.approx(
        {f"heat_map/error_{name}": mean for name, mean in means.items()}
        | {
            "heat_map/low_minus_high": means["low"] - means["high"],
            "heat_map/error_clean": 100.0
            * float((network(images[:30] / 255).argmax(1) != labels[:30]).double().mean()),
        }
    )


def test_logits_that_are_not_finite_under_some_frequencies_are_told_in_a_line() -> None:
    with pytest.raises(MeasurementError) as refused:
        run(LooksAt(12, "high", lambda logits: torch.where(logits > 0.1, torch.nan, logits)))
    assert "expected finite logits, got others under 95 of 144 frequencies" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_images_without_thirds_are_refused() -> None:
    with pytest.raises(SpecError, match="expected images large enough for the band"):
        run(nn.Flatten(), 3)
