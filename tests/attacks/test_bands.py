"""PGD inside a band: the ball, the range, the band's bound, and plain PGD where the band is everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ablate.analysis.bands import THIRDS, band_mask, project, third_mask
from ablate.attacks import PGD, BandPGD, build_attack
from ablate.attacks.bands import OUT_OF_BAND, inside, settled
from ablate.core.errors import SpecError
from ablate.spaces.measurement import IN_BANDS, MeasurementSpec

EPS = 8 / 255


def network_of(size: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * size * size, 4)).eval()


def images_of(size: int) -> Tensor:
    """Noise, a black image with a bright square, one that is black but for a pixel, and one wholly white."""
    images = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    images[1:3] = 0.0
    images[1, :, 2:6, 3:7] = 0.6
    images[2, :, 1, 1] = 0.5
    images[3] = 1.0
    return images


def attacked(attack: BandPGD | PGD, size: int) -> tuple[Tensor, Tensor]:
    images = images_of(size)
    made = attack.perturb(network_of(size), images, torch.arange(4) % 4, index=torch.arange(4), seed=5)
    return images, made


def outside(perturbation: Tensor, mask: Tensor) -> Tensor:
    whole = perturbation.double()
    return (whole - project(whole, mask)).square().sum((1, 2, 3)) - OUT_OF_BAND * whole.square().sum((1, 2, 3))


@pytest.mark.parametrize("size", [9, 16, 32])
@pytest.mark.parametrize("band", [*THIRDS, (3, 4)])
def test_it_stays_in_ball_range_and_band_however_black_or_white_an_image_is(
    band: str | tuple[int, int], size: int
) -> None:
    images, made = attacked(BandPGD(name="some", band=band, steps=4), size)
    assert made.min() >= 0 and made.max() <= 1 and not made.requires_grad
    assert (made - images).abs().max() <= EPS + 1e-7
    mask = third_mask(size, band) if isinstance(band, str) else band_mask(size, *band)
    assert (outside(made - images, mask) <= 1e-9).all()
    assert (made - images)[0].abs().max() > EPS / 3  # where there is room, it is used


@pytest.mark.parametrize("band", ["whole", (0, 8)])
def test_the_whole_band_is_pgd_bit_for_bit(band: str | tuple[int, int]) -> None:
    _, banded = attacked(BandPGD(name="pgd20", band=band), 16)
    _, plain = attacked(PGD(name="pgd20"), 16)
    assert torch.equal(banded, plain)


def test_a_linear_networks_margin_falls_in_every_band_and_most_without_one() -> None:
    size, count = 16, 6
    torch.manual_seed(2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 2)).eval()
    images, labels = 0.3 + 0.4 * torch.rand(count, 3, size, size), torch.zeros(count, dtype=torch.int64)

    def loss(attack: BandPGD) -> float:
        made = attack.perturb(network, images, labels, index=torch.arange(count), seed=0)
        return float(nn.functional.cross_entropy(network(made), labels))

    clean = float(nn.functional.cross_entropy(network(images), labels))
    found = {band: loss(BandPGD(name="some", band=band)) for band in (*THIRDS, "whole")}
    assert all(value > clean for value in found.values())
    assert all(found["whole"] > found[band] for band in THIRDS)


def test_the_nearest_point_of_band_and_box_is_found() -> None:
    """The projection on a convex set: no other point of it makes an obtuse angle less than right."""
    generator = torch.Generator().manual_seed(4)
    wanted = torch.randn(1, 1, 8, 8, generator=generator, dtype=torch.float64)
    mask, bound = band_mask(8, 1, 2), torch.full((1, 1, 8, 8), 0.3, dtype=torch.float64)
    found = inside(wanted, mask, -bound, bound, 1000)
    assert found.abs().max() <= 0.3 + 1e-4
    torch.testing.assert_close(project(found, mask), found)
    for _ in range(50):
        other = project(torch.randn(1, 1, 8, 8, generator=generator, dtype=torch.float64), mask)
        other = other * (0.3 / other.abs().max())
        assert float(((wanted - found) * (other - found)).sum()) <= 1e-3


def test_what_cannot_be_clipped_is_shrunk() -> None:
    mask, room = third_mask(16, "high"), torch.full((2, 1, 16, 16), 0.1)
    free = project(torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(6)), mask)
    lower = -room.clone()
    lower[0, :, :8] = -1e-3  # half an image that must hardly get darker
    found = settled(free, mask, lower, room)
    assert (found >= lower).all() and (found <= room).all()
    assert (outside(found, mask) <= 1e-9).all() and (found.abs().amax((1, 2, 3)) > 0).all()


def test_the_columns_are_the_thirds_in_the_measurements_ball() -> None:
    for name, band in zip(IN_BANDS, THIRDS, strict=True):
        attack = build_attack(name, MeasurementSpec(eps_255=4, step_255=1))
        assert attack == BandPGD(name=name, band=band, eps_255=4, step_255=1)


def test_a_band_that_is_none_is_refused_in_one_line() -> None:
    with pytest.raises(SpecError, match="expected a band of the spectrum, got 'lo'; did you mean 'low'"):
        BandPGD(name="mine", band="lo")
    with pytest.raises(SpecError, match="expected a band with a frequency in it, got 5 to 3"):
        BandPGD(name="mine", band=(5, 3))
    with pytest.raises(SpecError, match="within 0 to 4 cycles per image"):
        attacked(BandPGD(name="mine", band=(3, 9)), 8)
