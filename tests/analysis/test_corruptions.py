"""Corruptions: what each does to known images, that all networks see the same ones, and the official files."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from ablate.analysis.corruptions import CLOSED_FORMS, FORMS, NAMES, OFFICIAL, SEVERITIES, corrupted, corruptions
from ablate.analysis.registry import AnalysisContext
from ablate.core.errors import DataError, MeasurementError
from ablate.learning import cifar10_c
from ablate.learning.cifar10_c import digest_of, load_official
from ablate.spaces.specs import DataSpec

SIZE = 16


def images_of(count: int = 6, size: int = SIZE) -> Tensor:
    """Smooth images with colours, one of them grey and one black."""
    rough = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    images = nn.functional.interpolate(rough, size=size, mode="bilinear")
    images[0] = images[0, :1]
    images[1] = 0.0
    return (images * 255).to(torch.uint8)


def changed(name: str, severity: int) -> Tensor:
    return corrupted(images_of(), name, severity).float() - images_of().float()


class Constant(nn.Module):
    """Always says the first class, or nothing that is a number."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor([value, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.answer.expand(len(x), 2)


class Dark(nn.Module):
    """Says the first class of images darker than 100 of 255, else the second."""

    def forward(self, x: Tensor) -> Tensor:
        dark = 100 / 255 - x.mean(dim=(1, 2, 3))
        return torch.stack([dark, -dark], dim=1)


def context_of(network: nn.Module, **more: object) -> AnalysisContext:
    labels = torch.tensor([0, 0, 1, 0, 1, 0])
    return AnalysisContext(network, images_of(), labels, lambda at: images_of()[at].float(), 0, 4, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FORMS)
def test_every_one_changes_images_alike_each_time_and_more_at_the_end(name: str) -> None:
    first, last = changed(name, 1), changed(name, SEVERITIES)
    assert torch.equal(first, changed(name, 1))
    assert 0 < first.abs().mean() < last.abs().mean() or name in ("saturate", "defocus_blur")
    assert last.abs().mean() > 0


def test_known_values() -> None:
    images = images_of().double() / 255
    noise = changed("gaussian_noise", 5)[2:] / 255
    inside = (images[2:] > 0.35) & (images[2:] < 0.65)
    assert float(noise[inside].std()) == pytest.approx(0.10, rel=0.1)
    hit = changed("impulse_noise", 5)[2:] != 0
    assert float(hit.float().mean()) == pytest.approx(0.07, abs=0.02)
    low = corrupted(images_of(), "contrast", 5).double() / 255
    wanted = 0.15 * images + 0.85 * images.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(low, wanted, atol=1.01 / 255, rtol=0)
    bright = corrupted(images_of(), "brightness", 5).double() / 255
    value = (images.amax(1) + 0.3).clamp(max=1)
    torch.testing.assert_close(bright.amax(1), value, atol=1.01 / 255, rtol=0)
    grey = corrupted(images_of(), "saturate", 2).double() / 255  # a tenth of the colours
    spread = images.amax(1) - images.amin(1)
    torch.testing.assert_close(grey.amax(1) - grey.amin(1), 0.1 * spread, atol=2.01 / 255, rtol=0)
    flat = torch.full((1, 3, SIZE, SIZE), 90, dtype=torch.uint8)
    for name in ("gaussian_blur", "defocus_blur", "pixelate", "contrast"):
        for severity in range(1, SEVERITIES + 1):
            assert (corrupted(flat, name, severity).int() - 90).abs().max() <= 1  # of nothing they make nothing


def in_hsv(image: NDArray[np.float64], change: Callable[[float, float, float], tuple[float, float, float]]) -> object:
    """An image [3, H, W] whose pixels are changed one by one in hue, saturation and value."""
    clipped = [np.clip(change(*colorsys.rgb_to_hsv(*pixel)), 0, 1) for pixel in image.reshape(3, -1).T.tolist()]
    return np.array([colorsys.hsv_to_rgb(*pixel) for pixel in clipped]).T.reshape(image.shape)


def defocused(image: NDArray[np.float64], radius: float, smooth: float) -> NDArray[np.float64]:
    place = np.arange(-8, 9)
    disk = (place[:, None] ** 2 + place[None, :] ** 2 <= radius**2).astype(float)
    bell = np.exp(-(np.arange(-1, 2) ** 2) / (2 * smooth**2))
    kernel = ndimage.correlate(disk / disk.sum(), np.outer(bell, bell) / bell.sum() ** 2)
    return np.stack([ndimage.correlate(channel, kernel, mode="mirror") for channel in image])


def pixelated(image: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    small = int(share * SIZE)
    pixels = Image.fromarray((image * 255).round().astype(np.uint8).transpose(1, 2, 0))
    for size in (small, SIZE):
        pixels = pixels.resize((size, size), Image.Resampling.BOX)
    return np.asarray(pixels).transpose(2, 0, 1) / 255


PLAIN: dict[str, tuple[Callable[..., object], tuple[object, ...]]] = {
    "gaussian_blur": (
        lambda x, sigma: np.stack([ndimage.gaussian_filter(channel, sigma, mode="nearest") for channel in x]),
        (0.4, 0.6, 0.7, 0.8, 1.0),
    ),
    "defocus_blur": (lambda x, c: defocused(x, *c), ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),
    "brightness": (lambda x, c: in_hsv(x, lambda h, s, v: (h, s, v + c)), (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (
        lambda x, c: (x - x.mean(axis=(1, 2), keepdims=True)) * c + x.mean(axis=(1, 2), keepdims=True),
        (0.75, 0.5, 0.4, 0.3, 0.15),
    ),
    "saturate": (
        lambda x, c: in_hsv(x, lambda h, s, v: (h, s * c[0] + c[1], v)),
        ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)),
    ),
    "pixelate": (pixelated, (0.95, 0.9, 0.85, 0.75, 0.65)),
}
"""Those that draw nothing, written once more, with the constants of the official images."""


@pytest.mark.parametrize("name", PLAIN)
def test_what_draws_nothing_agrees_with_another_implementation_at_every_severity(name: str) -> None:
    plain, constants = PLAIN[name]
    for severity, constant in enumerate(constants, 1):
        wanted = np.stack([plain(image, constant) for image in images_of().numpy() / 255])
        found = corrupted(images_of(), name, severity).numpy()
        np.testing.assert_allclose(found, np.clip(wanted, 0, 1) * 255, atol=1.001, err_msg=f"{name} {severity}")


NOISES: dict[str, tuple[Callable[[float, float], float], tuple[float, ...]]] = {
    "gaussian_noise": (lambda value, scale: scale, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (lambda value, photons: (value / photons) ** 0.5, (500, 250, 100, 75, 50)),
    "speckle_noise": (lambda value, scale: value * scale, (0.06, 0.1, 0.12, 0.16, 0.2)),
    "impulse_noise": (lambda value, share: (share * (0.5 - value + value**2)) ** 0.5, (0.01, 0.02, 0.03, 0.05, 0.07)),
}
"""Deviation of a pixel of a value, by the constants of the official images."""


@pytest.mark.parametrize("name", NOISES)
def test_noise_has_the_deviation_of_every_severity(name: str) -> None:
    grey = torch.full((200, 3, SIZE, SIZE), 102, dtype=torch.uint8)
    deviation, constants = NOISES[name]
    for severity, constant in enumerate(constants, 1):
        changes = (corrupted(grey, name, severity).double() + 0.5 * (name != "impulse_noise") - 102) / 255
        wanted = deviation(102 / 255, constant)
        rel = 0.05 if name == "impulse_noise" else 0.03  # whole grey levels
        assert float(changes.square().mean().sqrt()) == pytest.approx(wanted, rel=rel), severity


def test_a_blur_takes_high_frequencies_away_and_noise_brings_them() -> None:
    found = corruptions(context_of(Constant())).arrays
    frequency = dict(zip(found["names"].tolist(), found["frequency"].mean(axis=1), strict=True))
    assert frequency["contrast"] < frequency["gaussian_blur"]
    assert frequency["brightness"] < 2 < 0.3 * SIZE < frequency["gaussian_noise"]
    assert str(found["source"]) == CLOSED_FORMS


def test_accuracy_is_of_the_answers_and_official_images_are_taken_where_there_are_any() -> None:
    found = corruptions(context_of(Constant()))
    assert set(found.scalars) == {f"corruptions/{name}" for name in (*FORMS, "mean")}
    assert all(value == pytest.approx(400 / 6) for value in found.scalars.values())
    whole = np.zeros((SEVERITIES, 6, 3, SIZE, SIZE), np.uint8)
    given = corruptions(context_of(Constant(), corrupted={"fog": whole, "snow": whole}))
    assert set(given.scalars) == {"corruptions/fog", "corruptions/snow", "corruptions/mean"}
    harder = np.stack([np.full((6, 3, SIZE, SIZE), 40 * severity, np.uint8) for severity in range(SEVERITIES)])
    counted = corruptions(context_of(Dark(), corrupted={"fog": whole, "snow": harder}))
    counts = np.array([[4, 4, 4, 2, 2], [4] * 5])  # of six images, from the mildest on; snow comes before fog
    np.testing.assert_allclose(counted.arrays["accuracy"], 100 * counts / 6, rtol=1e-6)
    assert counted.scalars["corruptions/snow"] == pytest.approx((3 * 400 + 2 * 200) / 30)
    assert counted.scalars["corruptions/mean"] == pytest.approx((8 * 400 + 2 * 200) / 60)
    assert str(given.arrays["source"]) == OFFICIAL and given.arrays["accuracy"].shape == (2, SEVERITIES)
    with pytest.raises(MeasurementError, match="expected finite logits"):
        corruptions(context_of(Constant(float("nan"))))


def test_official_files_are_read_and_others_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10_c, "IMAGES", 3)
    monkeypatch.setattr(cifar10_c, "SHAPE", (SEVERITIES * 3, 32, 32, 3))
    folder = tmp_path / OFFICIAL
    assert load_official(DataSpec(), tmp_path) is None
    folder.mkdir()
    with pytest.raises(DataError, match=r"expected corruptions as .*gaussian_noise.npy"):
        load_official(DataSpec(), tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (SEVERITIES * 3, 32, 32, 3), dtype=np.uint8)
    np.save(folder / "fog.npy", images)
    np.save(folder / "labels.npy", np.zeros(SEVERITIES * 3, np.uint8))
    found = load_official(DataSpec(), tmp_path)
    assert found is not None and list(found) == ["fog"] and set(found) <= set(NAMES)
    assert np.array_equal(found["fog"][1, 2], images[5].transpose(2, 0, 1))
    assert load_official(DataSpec(name="digits"), tmp_path) is None
    assert load_official(DataSpec(image_size=16), tmp_path) is None
    before = digest_of(found)
    np.save(folder / "fog.npy", 255 - images)
    again = load_official(DataSpec(), tmp_path)
    assert again is not None and digest_of(again) != before
    for wrong, got in ((images[:-1], r"uint8 of shape \(14, 32, 32, 3\)"), (images / 255, "float64 of shape")):
        np.save(folder / "fog.npy", wrong)
        with pytest.raises(DataError, match=rf"fog.npy: expected uint8 images .* got {got}"):
            load_official(DataSpec(), tmp_path)
    (folder / "fog.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"fog.npy: expected uint8 images .* got no array that can be read"):
        load_official(DataSpec(), tmp_path)
