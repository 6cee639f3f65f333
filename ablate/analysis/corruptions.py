"""Corruptions of CIFAR-10-C: the official images where they are at hand, else those that are closed forms.

Source: Hendrycks and Dietterich 2019, arXiv 1903.12261; constants of its CIFAR variant, five severities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ablate.analysis.examples import ANALYSED_IMAGES
from ablate.analysis.registry import AnalysisContext, AnalysisResult, register_analysis
from ablate.analysis.spectrum import mean_frequency
from ablate.core.errors import MeasurementError
from ablate.core.randomness import stream

SEVERITIES = 5
OFFICIAL = "CIFAR-10-C"
CLOSED_FORMS = "closed forms, constants of CIFAR-10-C"
"""Where the images are from, as the figure says it."""

NAMES = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "speckle_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "gaussian_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "saturate",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
    "spatter",
)
"""The files of CIFAR-10-C, without `.npy`."""

Random = np.random.Generator
_Form = Callable[[Tensor, int, Random], Tensor]
"""Images [N, 3, H, W] float64 in [0, 1], a severity from 0 and random numbers -> the corrupted ones, not clipped."""


def _like(images: Tensor, numbers: NDArray[np.number]) -> Tensor:
    return torch.from_numpy(np.asarray(numbers, np.float64)).to(images.dtype)


def _gaussian_noise(images: Tensor, severity: int, random: Random) -> Tensor:
    scale = (0.04, 0.06, 0.08, 0.09, 0.10)[severity]
    return images + scale * _like(images, random.standard_normal(tuple(images.shape)))


def _shot_noise(images: Tensor, severity: int, random: Random) -> Tensor:
    photons = (500, 250, 100, 75, 50)[severity]
    return _like(images, random.poisson((images * photons).numpy())) / photons


def _impulse_noise(images: Tensor, severity: int, random: Random) -> Tensor:
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity]
    hit = random.random(tuple(images.shape)) < amount
    salt = random.random(tuple(images.shape)) < 0.5
    return torch.where(torch.from_numpy(hit), torch.from_numpy(salt).to(images.dtype), images)


def _speckle_noise(images: Tensor, severity: int, random: Random) -> Tensor:
    scale = (0.06, 0.1, 0.12, 0.16, 0.2)[severity]
    return images + images * scale * _like(images, random.standard_normal(tuple(images.shape)))


def _bell(sigma: float, radius: int) -> Tensor:
    place = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-place.square() / (2 * sigma**2))
    return weights / weights.sum()


def _convolved(images: Tensor, kernel: Tensor, border: str) -> Tensor:
    down, across = (size // 2 for size in kernel.shape)
    padded = F.pad(images, (across, across, down, down), mode=border)
    channels = images.shape[1]
    return F.conv2d(padded, kernel.expand(channels, 1, *kernel.shape), groups=channels)


def _gaussian_blur(images: Tensor, severity: int, random: Random) -> Tensor:
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[severity]
    bell = _bell(sigma, int(4 * sigma + 0.5))
    return _convolved(_convolved(images, bell[:, None], "replicate"), bell[None, :], "replicate")


def _defocus_blur(images: Tensor, severity: int, random: Random) -> Tensor:
    radius, smooth = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity]
    place = torch.arange(-2, 3, dtype=torch.float64)
    disk = (place[:, None].square() + place[None, :].square() <= radius**2).double()
    bell = _bell(smooth, 1)
    kernel = _convolved((disk / disk.sum())[None, None], bell[:, None] * bell[None, :], "constant")[0, 0]
    return _convolved(images, kernel, "reflect")


def _brightness(images: Tensor, severity: int, random: Random) -> Tensor:
    # In HSV the value alone, which is the largest channel: the others keep their proportion to it.
    value = images.amax(dim=1, keepdim=True)
    brighter = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity]).clamp(0, 1)
    return torch.where(value > 0, images * brighter / value.clamp(min=1e-12), brighter)


def _contrast(images: Tensor, severity: int, random: Random) -> Tensor:
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (images - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity] + mean


def _saturate(images: Tensor, severity: int, random: Random) -> Tensor:
    factor, more = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[severity]
    value, least = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    spread = value - least
    saturation = spread / value.clamp(min=1e-12)
    other = (saturation * factor + more).clamp(0, 1)
    grey = torch.cat([value, value * (1 - other), value * (1 - other)], dim=1)  # whose hue is 0, which is red
    coloured = value - (value - images) * other / saturation.clamp(min=1e-12)
    return torch.where(spread > 0, coloured, grey)


def _pixelate(images: Tensor, severity: int, random: Random) -> Tensor:
    size = images.shape[-1]
    small = int(size * (0.95, 0.9, 0.85, 0.75, 0.65)[severity])
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def one(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        box = Image.Resampling.BOX
        return np.asarray(Image.fromarray(image).resize((small, small), box).resize((size, size), box))

    return torch.from_numpy(np.stack([one(image) for image in pixels])).permute(0, 3, 1, 2).to(images.dtype) / 255


FORMS: Mapping[str, _Form] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "speckle_noise": _speckle_noise,
    "defocus_blur": _defocus_blur,
    "gaussian_blur": _gaussian_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturate": _saturate,
    "pixelate": _pixelate,
}
"""The corruptions that need nothing but the image, by their name in `NAMES`."""


def corrupted(images: Tensor, name: str, severity: int) -> Tensor:
    """Images under one of `FORMS`; every network sees the same ones.

    Args:
        images: [N, 3, H, W] uint8, on the CPU.
        name: One of `FORMS`.
        severity: From 1 to 5.

    Returns:
        [N, 3, H, W] uint8, cut off as the official ones are, not rounded.
    """
    random = np.random.default_rng(stream(0, f"corruption:{name}", severity) % 2**63)
    changed = FORMS[name](images.double() / 255, severity - 1, random)
    # A number of whole pixels must not fall to the one below by rounding.
    return (changed.clamp(0, 1) * 255 + 1e-9).to(torch.uint8)


@register_analysis("corruptions", scalars=["corruptions/mean", *(f"corruptions/{name}" for name in NAMES)])
def corruptions(context: AnalysisContext) -> AnalysisResult:
    """Accuracy under each corruption, and the frequency at which what it changes has its centre.

    Args:
        context: The first `ANALYSED_IMAGES` test images; `corrupted` are the official ones of these, where there are.

    Returns:
        Arrays `names`; `accuracy` and `frequency` [corruptions, 5], percent and cycles per image, by severity; `clean`,
        the accuracy without any; `source`, where the images are from. `corruptions/<name>`: the mean over severities;
        `corruptions/mean` over all of them.

    Raises:
        MeasurementError: An answer of the network is not finite.
    """
    count = min(ANALYSED_IMAGES, len(context.images))
    clean, labels = context.images[:count], context.labels[:count]
    plain = clean.cpu().contiguous()
    names = [name for name in NAMES if name in (FORMS if context.corrupted is None else context.corrupted)]
    accuracy = np.zeros((len(names), SEVERITIES), np.float32)
    frequency = np.zeros_like(accuracy)
    for row, name in enumerate(names):
        for severity in range(1, SEVERITIES + 1):
            if context.corrupted is None:
                changed = corrupted(plain, name, severity)
            else:
                changed = torch.from_numpy(context.corrupted[name][severity - 1][:count].copy())
            accuracy[row, severity - 1] = _accuracy(context, changed, labels)
            frequency[row, severity - 1] = mean_frequency((changed.float() - plain.float()) / 255)
    scalars = {f"corruptions/{name}": float(accuracy[row].mean()) for row, name in enumerate(names)}
    scalars["corruptions/mean"] = float(accuracy.mean())
    arrays = {
        "names": np.array(names),
        "accuracy": accuracy,
        "frequency": frequency,
        "clean": np.array(_accuracy(context, clean, labels), np.float32),
        "source": np.array(CLOSED_FORMS if context.corrupted is None else OFFICIAL),
    }
    return AnalysisResult(scalars, arrays)


@torch.no_grad()
def _accuracy(context: AnalysisContext, images: Tensor, labels: Tensor) -> float:
    """In percent."""
    right = 0
    for part, truth in zip(
        torch.split(images, context.batch_size), torch.split(labels, context.batch_size), strict=True
    ):
        logits = context.network(part.to(labels.device).float() / 255.0)
        if not bool(torch.isfinite(logits).all()):
            raise MeasurementError("corruptions: expected finite logits, got others")
        right += int((logits.argmax(dim=1) == truth).sum())
    return 100.0 * right / len(labels)
