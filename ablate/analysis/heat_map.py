"""The Fourier heat map (Yin et al. 2019, arXiv 1906.08988): how often a network errs under each frequency alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablate.analysis.bands import THIRDS, third_mask
from ablate.analysis.registry import AnalysisContext, AnalysisResult, register_analysis
from ablate.core.errors import MeasurementError
from ablate.core.randomness import bits, stream


def frequency_classes(size: int) -> list[tuple[int, int]]:
    """One frequency of every conjugate pair: (u, v) and (-u, -v) are the same real wave.

    Args:
        size: Height and width of the images, in pixels.

    Returns:
        (down, across) in cycles per image, each from -(size // 2) to (size - 1) // 2, those near zero first: 514 of
        32 x 32 pixels.
    """
    low = -(size // 2)
    every = [(u, v) for u in range(low, low + size) for v in range(low, low + size)]
    # The zero frequency first, then outwards, so that what is known early is the middle of the map.
    every.sort(key=lambda at: (max(abs(at[0]), abs(at[1])), at[0] < 0, at[1] < 0, at))
    kept: dict[tuple[int, int], None] = {}
    for u, v in every:
        if ((-u - low) % size + low, (-v - low) % size + low) not in kept:
            kept[u, v] = None
    return list(kept)


def fourier_basis(size: int, frequency: tuple[int, int]) -> Tensor:
    """The real wave of one frequency: cos(2 pi (u y + v x) / size), scaled to unit length.

    Its discrete Fourier transform is zero but at the frequency and its conjugate; waves of different conjugate pairs
    are orthogonal.

    Args:
        size: Height and width of the images, in pixels.
        frequency: (down, across) in cycles per image.

    Returns:
        [size, size] float64, of L2 norm 1.
    """
    place = torch.arange(size, dtype=torch.float64)
    # The phase in whole numbers, so that rounding does not grow with the frequency.
    phase = (frequency[0] * place[:, None] + frequency[1] * place[None, :]) % size
    wave = torch.cos(2 * torch.pi * phase / size)
    unit: Tensor = wave / torch.linalg.vector_norm(wave)
    return unit


def perturbed(images: Tensor, wave: Tensor, norm: float, seed: int, frequency: tuple[int, int], first: int) -> Tensor:
    """Images plus a wave of an L2 norm in each channel, its sign random by image and channel, clipped to [0, 1].

    Args:
        images: [N, C, H, W] float in [0, 1].
        wave: [H, W], from `fourier_basis`.
        norm: Of what is added to a channel, before it is clipped.
        seed: The trial's seed.
        frequency: Of the wave: its signs are its own.
        first: Place of the first image in the data set; the others follow it.

    Returns:
        [N, C, H, W] float in [0, 1].
    """
    index = torch.arange(first, first + len(images), device=images.device)
    drawn = bits(stream(seed, "heat_map", *frequency), index, (images.shape[1],))
    signs = ((drawn & 1) * 2 - 1).to(images.dtype)[:, :, None, None]
    scaled = (norm * wave).to(device=images.device, dtype=images.dtype)
    return torch.addcmul(images, signs, scaled.expand_as(images)).clamp_(0.0, 1.0)


CPU_AT_ONCE = 32
"""Images of a batch on a CPU: what lies between layers stays in its cache, a fifth of the time."""


def error_map(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    norm: float,
    seed: int,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Share of images that a network gets wrong under each frequency.

    Args:
        network: In evaluation mode; images to logits.
        images: [N, C, H, H] uint8 or float in [0, 1].
        labels: [N] int64.
        norm: L2 norm of what is added to each channel.
        seed: The trial's seed.
        batch_size: Images classified at once, at most; changes nothing else.
        progress: Called after each frequency with how many are done, and of how many.

    Returns:
        [H, H] float64 in percent, zero frequency in the middle, alike at (u, v) and (-u, -v); nan where a logit was not
        finite, which is no answer.
    """
    size = images.shape[-1]
    device = images.device
    pixels = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images
    errors = torch.full((size, size), torch.nan, dtype=torch.float64)
    half, classes = size // 2, frequency_classes(size)
    at_once = min(batch_size, CPU_AT_ONCE) if device.type == "cpu" else batch_size
    for number, frequency in enumerate(classes, 1):
        wave = fourier_basis(size, frequency)
        wrong = torch.zeros((), dtype=torch.int64, device=device)
        finite = torch.ones((), dtype=torch.bool, device=device)
        with torch.no_grad():
            for first in range(0, len(images), at_once):
                part = slice(first, first + at_once)
                logits = network(perturbed(pixels[part], wave, norm, seed, frequency, first))
                wrong += (logits.argmax(dim=1) != labels[part]).sum()
                finite &= logits.isfinite().all()
        error = 100.0 * wrong.item() / len(images) if finite else torch.nan
        for sign in (1, -1):
            errors[tuple((sign * each + half) % size for each in frequency)] = error
        progress(number, len(classes))
    return errors


def map_passes(settings: Mapping[str, Any], images: int, size: int) -> float:
    """Forward passes of one image that a heat map amounts to: one each without a wave, and under each of them.

    Args:
        settings: With `heat_map_images`.
        images: Test images.
        size: Height and width in pixels.
    """
    return min(images, int(settings["heat_map_images"])) * (1.0 + len(frequency_classes(size)))


@register_analysis(
    "heat_map",
    scalars=[f"heat_map/{what}" for what in ("error_clean", *(f"error_{name}" for name in THIRDS), "low_minus_high")],
    settings=("heat_map_norm", "heat_map_images"),
    passes=map_passes,
)
def heat_map(context: AnalysisContext) -> AnalysisResult:
    """The Fourier heat map: the error under each real Fourier basis vector, one at a time.

    Args:
        context: The first `measurement.heat_map_images` test images are looked at, under waves of an L2 norm of
            `measurement.heat_map_norm` in each channel.

    Returns:
        Array `error` [H, H] in percent, zero frequency in the middle. `heat_map/error_low`, `error_mid` and
        `error_high`, the mean over the frequencies of each third (`ablate.analysis.bands`), `heat_map/low_minus_high`,
        the first less the last, and `heat_map/error_clean` of the same images as they are, all in percent.

    Raises:
        MeasurementError: Logits are not finite under some frequency.

    Source: arXiv 1906.08988, Section 3.
    """
    count = min(int(context.settings["heat_map_images"]), len(context.images))
    images, labels, size = context.images[:count], context.labels[:count], context.images.shape[-1]
    bands = {name: third_mask(size, name) for name in THIRDS}  # of images too small for them there is no map, either
    asked = {"seed": context.seed, "batch_size": context.batch_size}
    clean = _clean_error(context, images, labels)
    errors = error_map(context.logits, images, labels, norm=float(context.settings["heat_map_norm"]),
                       progress=context.progress, **asked)  # fmt: skip
    _refuse_unanswered(errors)
    found = {f"error_{name}": float(errors[mask].mean()) for name, mask in bands.items()}
    found |= {"low_minus_high": found["error_low"] - found["error_high"], "error_clean": clean}
    scalars = {f"heat_map/{name}": value for name, value in found.items()}
    return AnalysisResult(scalars, {"error": errors.numpy().astype(np.float32)})


def _clean_error(context: AnalysisContext, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        parts = [context.logits(part.float() / 255.0) for part in torch.split(images, context.batch_size)]
    return 100.0 * float((torch.cat(parts).argmax(dim=1) != labels).double().mean())


def _refuse_unanswered(errors: Tensor) -> None:
    size = errors.shape[0]
    places = errors.isnan().nonzero().tolist()
    if not places:
        return
    down, across = min(((u - size // 2, v - size // 2) for u, v in places), key=lambda at: max(map(abs, at)))
    raise MeasurementError(
        f"heat_map: expected finite logits, got others under {len(places)} of {size * size} frequencies, the lowest "
        f"of {down} cycles per image down and {across} across"
    )
