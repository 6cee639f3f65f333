"""FAT: a learned mask on the spectrum of the weights (arXiv 2102.07444; Section 3.3.2 of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FrequencyMask(nn.Module):
    """w' = Re F^-1(m * F(w)) with m = sigmoid(A |F(w)|), F the DFT of each filter as one vector.

    A starts at 1 / filters, so every mask starts from the mean magnitude over the layer's filters. In wide layers that
    is large, and the mask starts saturated at 1; `statistics` shows it.

    Args:
        filters: Output channels of the layer.
    """

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((filters, filters), 1.0 / filters))

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weights.

        Args:
            weight: [filters, ...] standardized weights, float.

        Returns:
            As `weight`.
        """
        flat = weight.flatten(1)
        spectrum = torch.fft.rfft(flat)
        masked: Tensor = torch.fft.irfft(self._mask(spectrum) * spectrum, n=flat.shape[1])
        return masked.reshape(weight.shape)

    def mask(self, weight: Tensor) -> Tensor:
        """The mask.

        Args:
            weight: [filters, ...] standardized weights of k elements in each filter, float.

        Returns:
            [filters, k] in (0, 1], by frequency.
        """
        flat = weight.flatten(1)
        half = self._mask(torch.fft.rfft(flat))
        count = flat.shape[1]
        # Entry k - f of a real vector's spectrum has the magnitude of entry f.
        frequency = torch.arange(count, device=half.device)
        return half[:, torch.minimum(frequency, count - frequency)]

    def _mask(self, spectrum: Tensor) -> Tensor:
        # Half of the spectrum is enough: magnitudes of the other half are the same, hence the masks, and the inverse
        # of a symmetric product is real.
        mask = torch.sigmoid(self.weight @ spectrum.abs())
        return mask.clamp_min(torch.finfo(mask.dtype).tiny)
