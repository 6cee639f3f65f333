"""The ideal low-pass filter of Section 3.1.1, the central degree x degree of the shifted spectrum, and its rest."""

from __future__ import annotations

import torch
from torch import Tensor

from ablate.core.errors import SpecError
from ablate.core.filters import Filter


def mask(size: int, degree: int, device: torch.device | str | None = None) -> Tensor:
    """Which frequencies are kept: rows and columns size/2 - degree/2 ... size/2 + degree/2 - 1 of the shifted spectrum.

    Args:
        size: Height and width of the images, in pixels.
        degree: How many rows and columns are kept, 1 to `size`.
        device: Where the mask lies.

    Returns:
        [size, size] float32: degree * degree ones around the shifted spectrum's middle, zero outside.

    Raises:
        SpecError: No such degree.
    """
    band = _band(size, degree, device)
    return (band[:, None] & band[None, :]).to(torch.float32)


def lowpass(images: Tensor, degree: int) -> Tensor:
    """Images without what lies outside the mask: Re(IDFT(mask * DFT(x))), per channel.

    For even degrees the lowest kept row and column (frequency -degree/2) lack their positive partners; the real part
    halves them. The result is not clipped: it can leave [0, 1] a little. Differentiable, and linear in the images.

    Args:
        images: [N, C, H, W] float.
        degree: How many rows and columns of the spectrum are kept, 1 to min(H, W); the image's size is the identity.

    Returns:
        [N, C, H, W], of the same type.

    Raises:
        SpecError: No such degree.

    Source: Section 3.1.1.
    """
    height, width = images.shape[-2:]
    rows, columns = _band(height, degree, images.device), _band(width, degree, images.device)
    if degree == height == width:
        return images
    kept = torch.fft.ifftshift(rows)[:, None] & torch.fft.ifftshift(columns)[None, :]
    filtered: Tensor = torch.fft.ifft2(torch.fft.fft2(images) * kept)
    return filtered.real


def highpass(images: Tensor, degree: int, keep_mean: bool = False) -> Tensor:
    """What the low-pass filter of a degree takes away: x - lowpass(x, degree), so that both sum to the images.

    The mean of every channel is gone with any degree, so that the result lies around 0; it is not clipped. With
    `keep_mean` it comes back, x - lowpass(x, degree) + mean(x), the mean over the pixels of each image and channel: the
    one frequency of 0 is kept besides. So much of what a network loses was not the mean's.

    Args:
        images: [N, C, H, W] float.
        degree: How many rows and columns of the spectrum are removed, 1 to min(H, W) - 1.
        keep_mean: Whether each channel keeps its mean.

    Returns:
        [N, C, H, W], of the same type.

    Raises:
        SpecError: No such degree, or nothing would be left.
    """
    size = min(images.shape[-2:])
    if not 1 <= degree < size:
        raise SpecError(f"expected a high-pass degree from 1 to below the image's size ({size}), got {degree}")
    high = images - lowpass(images, degree)
    return high + images.mean((-2, -1), keepdim=True) if keep_mean else high


def bandstop(images: Tensor, degree: int, outer: int) -> Tensor:
    """Images without a band: x - lowpass(x, outer) + lowpass(x, degree); not clipped.

    Args:
        images: [N, C, H, W] float.
        degree: The rows and columns of the spectrum within which all is kept.
        outer: Those beyond which all is kept, above `degree` and at most min(H, W).

    Returns:
        [N, C, H, W], of the same type.

    Raises:
        SpecError: No such degrees, or nothing lies between them.
    """
    if outer <= degree:
        raise SpecError(f"expected a band to stop, from one degree to a larger one, got {degree} to {outer}")
    return images - lowpass(images, outer) + lowpass(images, degree)


def filtered(images: Tensor, seen: Filter | None) -> Tensor:
    """Images as a network behind a filter sees them.

    Args:
        images: [N, C, H, W] float.
        seen: The filter; None: there is none.

    Returns:
        [N, C, H, W], of the same type.

    Raises:
        SpecError: Images of this size have no such filter.
    """
    if seen is None:
        return images
    if seen.outer is not None:
        return bandstop(images, seen.degree, seen.outer)
    return lowpass(images, seen.degree) if seen.kind == "lowpass" else highpass(images, seen.degree, seen.keep_mean)


def _band(size: int, degree: int, device: torch.device | str | None) -> Tensor:
    if not 1 <= degree <= size:
        raise SpecError(f"expected a low-pass degree from 1 to the image's size ({size}), got {degree}")
    position = torch.arange(size, device=device)
    begin = size // 2 - degree // 2
    return (position >= begin) & (position < begin + degree)
