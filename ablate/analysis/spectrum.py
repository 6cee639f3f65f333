"""Fourier views of images and kernels, and the numbers for what Figures 2, 3, 4 and 8 show to the eye."""

from __future__ import annotations

import torch
from torch import Tensor

from ablate.analysis.lowpass import mask

CHUNK = 1024  # images transformed at once, so that a whole test set needs no more memory than these


def power_spectrum(images: Tensor) -> Tensor:
    """Mean energy per frequency, mean over examples and channels of |DFT(x)|^2 / (H * W), zero frequency in the middle.

    Parseval: its sum is the mean over examples and channels of sum(x^2).

    Args:
        images: [N, C, H, W] float: images, or perturbations.

    Returns:
        [H, W] float64, shifted.
    """
    scale = images.shape[0] * images.shape[1] * images.shape[2] * images.shape[3]
    total = torch.zeros(images.shape[2:], dtype=torch.float64, device=images.device)
    for part in torch.split(images, CHUNK):
        total += torch.fft.fft2(_single(part)).abs().square().sum(dim=(0, 1), dtype=torch.float64)
    shifted: Tensor = torch.fft.fftshift(total)
    return shifted / scale


def log_amplitude(images: Tensor) -> Tensor:
    """Figure 2: mean over examples and channels of log(1 + |DFT(x)|), shifted, scaled linearly to [0, 1].

    Args:
        images: [N, C, H, W] float: images, or perturbations.

    Returns:
        [H, W] float64, smallest 0, largest 1; all 0 where every frequency is alike.

    Source: Section 3.1.1.
    """
    total = torch.zeros(images.shape[2:], dtype=torch.float64, device=images.device)
    for part in torch.split(images, CHUNK):
        total += torch.fft.fft2(_single(part)).abs().log1p().sum(dim=(0, 1), dtype=torch.float64)
    mean = torch.fft.fftshift(total) / (images.shape[0] * images.shape[1])
    span = mean.max() - mean.min()
    # Differences that are rounding alone would be blown up to a picture of noise.
    flat = span <= 1e-6 * mean.max()
    return torch.where(
        flat, torch.zeros_like(mean), (mean - mean.min()) / torch.where(flat, torch.ones_like(span), span)
    )


def central_energy_share(images: Tensor) -> Tensor:
    """Share of the energy inside the central (size/2) x (size/2) of the shifted spectrum.

    White noise has 25 %, so over one half is "mainly low frequencies".

    Args:
        images: [N, C, H, W] float, H = W: usually perturbations, adversarial - clean.

    Returns:
        Scalar in [0, 1]; 0 where there is no energy at all.

    Source: Section 3.1.1, Figure 2.
    """
    power = power_spectrum(images)
    size = power.shape[0]
    return _share((power * mask(size, size // 2, power.device)).sum(), power.sum())


def radial_profile(images: Tensor) -> Tensor:
    """Mean power on each circle round the zero frequency, relative to the mean over all frequencies.

    White noise is 1 everywhere.

    Args:
        images: [N, C, H, W] float.

    Returns:
        [R] float64; entry r covers the frequencies at a distance of r - 1/2 to r + 1/2 cycles per image, r up to the
        spectrum's corner. All 0 where there is no energy at all.
    """
    power = power_spectrum(images)
    radius = _distance(power).round().long().flatten()
    zeros = torch.zeros(int(radius.max()) + 1, dtype=torch.float64, device=power.device)
    total = zeros.index_add(0, radius, power.flatten())
    count = zeros.index_add(0, radius, torch.ones_like(power).flatten())
    return _share(total / count, power.mean())


def mean_frequency(images: Tensor) -> Tensor:
    """The mean distance of the energy from the zero frequency, in cycles per image.

    Args:
        images: [N, C, H, W] float: images, gradients or perturbations.

    Returns:
        Scalar; 0 where there is no energy at all, about 0.38 H of white noise on H x H pixels.
    """
    power = power_spectrum(images)
    return _share((power * _distance(power)).sum(), power.sum())


def kernel_spectrum(weight: Tensor) -> Tensor:
    """Figure 4: amplitude of the DFT of each filter, flattened to cin * kh * kw numbers; not shifted.

    Args:
        weight: [cout, cin, kh, kw], or [cout, cin] of a linear layer.

    Returns:
        [cout, cin * kh * kw]; low frequencies at both ends, high ones in the middle.

    Source: Section 3.1.2.
    """
    spectrum: Tensor = torch.fft.fft(_single(weight.detach()).flatten(1), dim=1)
    return spectrum.abs()


def high_frequency_share(weight: Tensor) -> Tensor:
    """Share of a layer's energy in the middle half of `kernel_spectrum`: above 1/4 cycle per entry.

    White noise has about one half.

    Args:
        weight: [cout, cin, kh, kw], or [cout, cin] of a linear layer.

    Returns:
        Scalar in [0, 1]; 0 for an all-zero weight.
    """
    power = kernel_spectrum(weight).double().square()
    frequency = torch.fft.fftfreq(power.shape[1], device=power.device, dtype=torch.float64)
    return _share(power[:, frequency.abs() > 0.25].sum(), power.sum())


def kernel_smoothness(weight: Tensor) -> Tensor:
    """How alike neighbouring taps are: 1 - sum (a - b)^2 / sum (a^2 + b^2), over adjacent pairs.

    Args:
        weight: [cout, cin, kh, kw].

    Returns:
        Scalar in [-1, 1]: 1 for constant kernels, 0 for white noise, -1 for a checkerboard. 0 where there is nothing to
        compare: 1 x 1 kernels, or taps that are all zero.
    """
    weight = weight.detach().double()
    pairs = ((weight[..., 1:, :], weight[..., :-1, :]), (weight[..., :, 1:], weight[..., :, :-1]))
    product = torch.stack([2 * (first * second).sum() for first, second in pairs]).sum()
    energy = torch.stack([first.square().sum() + second.square().sum() for first, second in pairs]).sum()
    return _share(product, energy)


def channel_similarity(weight: Tensor) -> Tensor:
    """How alike the first kernels are across the input channels (red, green, blue): mean cosine over filters and pairs.

    Args:
        weight: [cout, cin, kh, kw], cin >= 2, of the first convolution.

    Returns:
        Scalar in [-1, 1]: 1 where the channels are multiples of each other, about 0 for white noise. All-zero kernels
        are like nothing: 0.

    Source: Section 3.1.2, Figure 3.
    """
    flat = torch.nn.functional.normalize(weight.detach().double().flatten(2), dim=2)
    cosine = flat @ flat.transpose(1, 2)
    channels = weight.shape[1]
    first, second = torch.triu_indices(channels, channels, offset=1, device=weight.device)
    return cosine[:, first, second].mean()


def _distance(power: Tensor) -> Tensor:
    """[H, W], of each entry of a shifted spectrum its distance from the zero frequency, in cycles per image."""
    rows, columns = (torch.arange(n, device=power.device, dtype=torch.float64) - n // 2 for n in power.shape)
    return torch.hypot(rows[:, None], columns[None, :])


def _single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, torch.ones_like(whole)), torch.zeros_like(part))
