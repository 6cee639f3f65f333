"""The loss gradient's spectrum: what is known of linear networks, of shifts, and of what is no number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ablate.analysis.gradients import gradient_spectrum, input_gradients
from ablate.analysis.registry import AnalysisContext
from ablate.analysis.spectrum import mean_frequency, power_spectrum, radial_profile
from ablate.core.errors import MeasurementError

SIZE = 8


class Linear(nn.Module):
    """Two classes, one of them always 0: the gradient is a multiple of the other's weights."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        one = (x * self.weight).sum(dim=(1, 2, 3))
        return torch.stack([one, torch.zeros_like(one)], dim=1)


class Circular(nn.Module):
    """A network without edges: a circular convolution whose output is averaged over all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular")
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.conv(x)).mean(dim=(2, 3)))


def images_of(count: int, size: int = SIZE) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def context_of(network: nn.Module, images: Tensor) -> AnalysisContext:
    labels = torch.arange(len(images)) % 2
    return AnalysisContext(network.eval(), images, labels, lambda at: images[at].float() / 255.0, 0, 3)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 40.0])
def test_a_linear_networks_profile_is_that_of_its_weights_however_sure_it_is(scale: float) -> None:
    weight = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    found = gradient_spectrum(context_of(Linear(scale * weight), images_of(7)))
    expected = radial_profile(weight[None])
    for name in ("clean", "adversarial"):
        torch.testing.assert_close(torch.from_numpy(found.arrays[name]).double(), expected, rtol=1e-5, atol=1e-6)
    mean = float(mean_frequency(weight[None]))
    assert found.scalars["gradient_spectrum/mean_frequency"] == pytest.approx(mean, rel=1e-5)
    assert found.scalars["gradient_spectrum/mean_frequency_adversarial"] == pytest.approx(mean, rel=1e-5)


def test_the_spectrum_of_a_circularly_shifted_gradient_has_the_same_magnitudes() -> None:
    torch.manual_seed(0)
    network, images, labels = Circular().double(), images_of(5).double() / 255.0, torch.arange(5) % 4
    gradients = input_gradients(network, images, labels, 2)
    rolled = torch.roll(images, (3, -2), (2, 3))
    shifted = input_gradients(network, rolled, labels, 5)
    torch.testing.assert_close(shifted, torch.roll(gradients, (3, -2), (2, 3)))
    torch.testing.assert_close(power_spectrum(shifted), power_spectrum(gradients))
    torch.testing.assert_close(radial_profile(shifted), radial_profile(gradients))


def test_the_mean_frequency_is_that_of_a_wave_and_of_noise() -> None:
    row = torch.arange(16.0)
    wave = torch.cos(2 * torch.pi * 5 * row / 16)[None, None, None, :].expand(1, 1, 16, 16)
    assert float(mean_frequency(wave)) == pytest.approx(5.0, rel=1e-5)
    noise = torch.randn(400, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    assert float(mean_frequency(noise)) == pytest.approx(0.38 * 16, rel=0.02)
    assert float(mean_frequency(torch.zeros(1, 1, 8, 8))) == 0.0


def test_images_without_a_gradient_are_left_out_and_numbers_that_are_none_refused() -> None:
    weight = torch.ones(3, SIZE, SIZE)
    flat = Linear(torch.zeros_like(weight))
    assert gradient_spectrum(context_of(flat, images_of(3))).scalars == {}
    with pytest.raises(MeasurementError, match="expected finite gradients"):
        gradient_spectrum(context_of(Linear(weight * float("nan")), images_of(3)))
