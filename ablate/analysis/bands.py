"""Bands of the 2-D spectrum: the frequencies (u, v) whose max(|u|, |v|), in cycles per image, lies between two edges.

Such a band is symmetric in +-frequency, so that a real image's part in it is real, and taking it is an orthogonal
projection: idempotent, and with Parseval's equality between disjoint bands. Table 1's filter (`lowpass`) keeps one more
negative than positive frequency at even degrees, is neither, and is another matter.

Named bands are thirds of 0 to size/2 cycles per image, by the frequency in cycles per pixel: `low` lies below 1/6,
`mid` from 1/6 to below 1/3, `high` from 1/3 to the last, 1/2. Of 32 x 32 pixels: 0 to 5, 6 to 10 and 11 to 16 cycles
per image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ablate.core.errors import SpecError, nearest

THIRDS = ("low", "mid", "high")
"""The named bands, which share no frequency and leave none out."""


def frequency_radius(size: int, device: torch.device | str | None = None) -> Tensor:
    """Which band each frequency belongs to.

    Args:
        size: Height and width of the images, in pixels.
        device: Where the result lies.

    Returns:
        [size, size] int64, zero frequency in the middle as in `spectrum.power_spectrum`: max(|u|, |v|) in cycles per
        image, 0 to size // 2.
    """
    frequency = (torch.arange(size, device=device) - size // 2).abs()
    return torch.maximum(frequency[:, None], frequency[None, :])


def band_mask(size: int, low: int, high: int, device: torch.device | str | None = None) -> Tensor:
    """The frequencies of one band, both edges included.

    Args:
        size: Height and width of the images, in pixels.
        low: Smallest max(|u|, |v|), in cycles per image.
        high: Largest, at most size // 2; from 0 to size // 2 is the whole spectrum.
        device: Where the mask lies.

    Returns:
        [size, size] bool, zero frequency in the middle.

    Raises:
        SpecError: A band without a frequency, or with an edge that images of this size do not have.
    """
    if not 0 <= low <= high <= size // 2:
        raise SpecError(
            f"expected a band from a lower to an upper edge within 0 to {size // 2} cycles per image (images of "
            f"{size} x {size} pixels), got {low} to {high}"
        )
    radius = frequency_radius(size, device)
    return (radius >= low) & (radius <= high)


def third_edges(size: int, name: str) -> tuple[int, int]:
    """The edges of a named band.

    Args:
        size: Height and width of the images, in pixels.
        name: One of `THIRDS`.

    Returns:
        Its first and last max(|u|, |v|) in cycles per image, both included.

    Raises:
        SpecError: No such band, or one without a frequency in images as small as these.
    """
    if name not in THIRDS:
        raise SpecError(f"expected a band of the spectrum, got {name!r}; {nearest(name, THIRDS)}")
    number = THIRDS.index(name)
    # The first frequency f with f / size >= number / 6, in whole numbers: nothing hangs on a rounded quotient.
    low = -(-number * size // 6)
    high = size // 2 if name == THIRDS[-1] else -(-(number + 1) * size // 6) - 1
    if low > high:
        raise SpecError(f"expected images large enough for the band {name!r} (4 x 4 pixels), got {size} x {size}")
    return low, high


def third_mask(size: int, name: str, device: torch.device | str | None = None) -> Tensor:
    """The frequencies of a named band.

    Args:
        size: Height and width of the images, in pixels.
        name: One of `THIRDS`.
        device: Where the mask lies.

    Returns:
        [size, size] bool, zero frequency in the middle.

    Raises:
        SpecError: As for `third_edges`.
    """
    return band_mask(size, *third_edges(size, name), device)


def project(images: Tensor, mask: Tensor) -> Tensor:
    """The part of images that lies in a band, per channel; differentiable, linear, and not clipped.

    Args:
        images: [N, C, H, H] float. Half precision is transformed in float32.
        mask: [H, H] bool, zero frequency in the middle, alike at (u, v) and (-u, -v), as `band_mask` makes it.

    Returns:
        [N, C, H, H], of the images' type: the nearest images whose spectra are zero outside the band.
    """
    size = images.shape[-1]
    assert mask.shape == images.shape[-2:] == (size, size)
    # Of a real image's spectrum half is enough: the other half is its conjugate, and the mask is alike in both.
    half = torch.fft.ifftshift(mask)[:, : size // 2 + 1]
    exact = images.float() if images.dtype in (torch.bfloat16, torch.float16) else images
    part: Tensor = torch.fft.irfft2(torch.fft.rfft2(exact) * half, s=(size, size))
    return part.to(images.dtype)
