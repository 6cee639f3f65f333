from __future__ import annotations

import pytest
import torch

from ablate.analysis import spectrum
from ablate.analysis.lowpass import lowpass
from ablate.analysis.spectrum import (
    central_energy_share,
    channel_similarity,
    high_frequency_share,
    kernel_smoothness,
    kernel_spectrum,
    log_amplitude,
    power_spectrum,
    radial_profile,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_parseval() -> None:
    images = noise(5, 3, 8, 8).double()
    torch.testing.assert_close(power_spectrum(images).sum(), images.square().sum((2, 3)).mean())


def test_a_pure_frequency_lies_where_it_should() -> None:
    place = torch.arange(8) / 8
    wave = torch.cos(2 * torch.pi * 2 * place).expand(1, 1, 8, 8)  # two cycles across, none down
    power = power_spectrum(wave)
    assert sorted(map(tuple, (power > 1e-6).nonzero().tolist())) == [(4, 2), (4, 6)]
    assert log_amplitude(wave)[4, 2] == 1 and log_amplitude(wave).min() == 0
    torch.testing.assert_close(radial_profile(wave).argmax(), torch.tensor(2))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(7, 3, 8, 8)
    whole = power_spectrum(images), log_amplitude(images)
    monkeypatch.setattr(spectrum, "CHUNK", 2)
    torch.testing.assert_close((power_spectrum(images), log_amplitude(images)), whole)


def test_log_amplitude_is_its_definition_scaled_to_the_unit_interval() -> None:
    images = noise(4, 3, 8, 8).double()
    mean = torch.fft.fftshift(torch.fft.fft2(images), dim=(-2, -1)).abs().log1p().mean((0, 1))
    torch.testing.assert_close(log_amplitude(images), (mean - mean.min()) / (mean.max() - mean.min()))


def test_log_amplitude_of_a_flat_spectrum_is_no_picture_of_rounding() -> None:
    point = torch.zeros(1, 1, 8, 8)
    point[..., 3, 5] = 1
    assert (log_amplitude(point) == 0).all()
    assert (log_amplitude(torch.zeros(1, 1, 8, 8)) == 0).all()


def test_white_noise_has_a_quarter_of_its_energy_in_the_centre() -> None:
    assert central_energy_share(noise(200, 3, 32, 32)).item() == pytest.approx(0.25, abs=0.003)


def test_the_central_share_of_what_is_low_and_what_is_high() -> None:
    images = noise(4, 3, 16, 16)
    low = lowpass(images, 7)
    assert central_energy_share(low).item() == pytest.approx(1.0)
    assert central_energy_share(images - lowpass(images, 9)).item() == pytest.approx(0.0, abs=1e-9)
    assert 0.25 < central_energy_share(images + low).item() < 1.0


def test_the_central_share_is_of_the_whole_energy_and_finite() -> None:
    images = noise(4, 3, 8, 8)
    torch.testing.assert_close(central_energy_share(3 * images), central_energy_share(images))
    assert central_energy_share(torch.zeros(2, 3, 8, 8)) == 0


def test_the_radial_profile_of_white_noise_is_flat() -> None:
    profile = radial_profile(noise(800, 3, 32, 32))
    assert len(profile) == 24  # the corner lies at sqrt(2) * 16 = 22.6
    assert (profile - 1).abs().max() < 0.1
    assert (profile[3:20] - 1).abs().max() < 0.02


def test_the_radial_profile_falls_for_what_is_smooth_and_averages_to_one() -> None:
    images = lowpass(noise(50, 3, 16, 16), 9)
    profile = radial_profile(images)
    assert profile[:5].min() > 1 and profile[7:].max() < 1e-6
    axis = torch.arange(16) - 8
    counts = torch.hypot(axis[:, None].double(), axis[None, :].double()).round().long().flatten().bincount()
    torch.testing.assert_close((profile * counts).sum() / 256, torch.tensor(1.0, dtype=torch.float64))
    assert (radial_profile(torch.zeros(1, 1, 8, 8)) == 0).all()


def test_kernel_spectrum_is_the_dft_of_the_flattened_filters() -> None:
    weight = noise(4, 3, 3, 3)
    rows = kernel_spectrum(weight)
    assert rows.shape == (4, 27)
    torch.testing.assert_close(rows[1], torch.fft.fft(weight[1].reshape(27)).abs())
    torch.testing.assert_close(rows[:, 0], weight.sum((1, 2, 3)).abs())  # unshifted: the mean comes first
    torch.testing.assert_close(rows.square().sum(), 27 * weight.square().sum())


def test_high_frequency_share() -> None:
    place = torch.arange(64.0)
    slow, fast = torch.cos(2 * torch.pi * place * 3 / 64), torch.cos(2 * torch.pi * place * 30 / 64)
    assert high_frequency_share(slow.reshape(1, 4, 4, 4)).item() == pytest.approx(0.0, abs=1e-9)
    assert high_frequency_share(fast.reshape(1, 4, 4, 4)).item() == pytest.approx(1.0)
    assert high_frequency_share((slow + 2 * fast).reshape(1, 4, 4, 4)).item() == pytest.approx(0.8)
    assert high_frequency_share(noise(64, 16, 3, 3)).item() == pytest.approx(0.5, abs=0.02)
    assert high_frequency_share(torch.zeros(2, 3, 3, 3)) == 0
    assert high_frequency_share(noise(10, 64)) > 0  # a linear layer
    edge = torch.cos(2 * torch.pi * place / 4)  # at a quarter cycle, which is not above it
    assert high_frequency_share(edge.reshape(1, 4, 4, 4)).item() == pytest.approx(0.0, abs=1e-9)


def test_kernel_smoothness() -> None:
    checkerboard = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]]).expand(4, 3, 3, 3)
    assert kernel_smoothness(torch.full((4, 3, 3, 3), 0.7)).item() == pytest.approx(1.0)
    assert kernel_smoothness(checkerboard).item() == pytest.approx(-1.0)
    assert kernel_smoothness(noise(64, 64, 3, 3)).item() == pytest.approx(0.0, abs=0.02)
    ramp = torch.arange(9.0).reshape(1, 1, 3, 3)
    pairs = [(a, b) for a in range(9) for b in range(9) if b - a == 3 or (b - a == 1 and b % 3)]
    expected = 1 - sum((a - b) ** 2 for a, b in pairs) / sum(a * a + b * b for a, b in pairs)
    assert kernel_smoothness(ramp).item() == pytest.approx(expected)


def test_smoothness_ignores_scale_and_rises_with_blurring() -> None:
    weight = noise(16, 8, 5, 5)
    torch.testing.assert_close(kernel_smoothness(-2 * weight), kernel_smoothness(weight))
    assert kernel_smoothness(torch.nn.functional.avg_pool2d(weight, 2, 1)) > kernel_smoothness(weight) + 0.2


def test_where_nothing_can_be_compared_smoothness_is_zero() -> None:
    assert kernel_smoothness(noise(4, 4, 1, 1)) == 0 and kernel_smoothness(torch.zeros(4, 4, 3, 3)) == 0


def test_channel_similarity() -> None:
    one = noise(8, 1, 3, 3)
    assert channel_similarity(one.expand(8, 3, 3, 3)).item() == pytest.approx(1.0)
    assert channel_similarity(torch.cat([one, -one], dim=1)).item() == pytest.approx(-1.0)
    assert channel_similarity(torch.cat([one, 2 * one, 5 * one], dim=1)).item() == pytest.approx(1.0)
    assert channel_similarity(noise(500, 3, 3, 3)).item() == pytest.approx(0.0, abs=0.03)
    assert channel_similarity(torch.zeros(8, 3, 3, 3)) == 0
    # One pair of three is alike, the two others opposite.
    assert channel_similarity(torch.cat([one, one, -one], dim=1)).item() == pytest.approx(-1 / 3)
