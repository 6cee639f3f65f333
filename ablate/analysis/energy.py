"""Low- and high-frequency information of activations, and their ratio R (Section 3.1.3; arXiv 2203.05962)."""

from __future__ import annotations

import torch
from torch import Tensor


def lfi(x: Tensor) -> Tensor:
    """The constant part of every channel: LFI[x] = 1/n 1 1^T x, over the n = H * W positions.

    Args:
        x: [B, C, H, W] float.

    Returns:
        [B, C, H, W], the channel's mean everywhere.
    """
    return x.mean(dim=(2, 3), keepdim=True).expand_as(x)


def hfi(x: Tensor) -> Tensor:
    """The rest of every channel: HFI[x] = (I - 1/n 1 1^T) x.

    Args:
        x: [B, C, H, W] float.

    Returns:
        [B, C, H, W], of mean zero in every channel.
    """
    return x - lfi(x)


def lfi_hfi_ratio(x: Tensor) -> Tensor:
    """R = mean over the examples of |LFI[x]| / |HFI[x]|, Frobenius norms over (C, H * W).

    Finite for whatever is: HFI below the rounding error of LFI counts as that error (so one example contributes at most
    8.4e6 in float32), and an all-zero example contributes 0.

    Args:
        x: [B, C, H, W], e.g. hardtanh(bn1(conv1(images))). Half precision is computed in float32.

    Returns:
        Scalar, float64.

    Source: Section 3.1.3.
    """
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    low, high = _norms(lfi(x)), _norms(hfi(x))
    floor = (low * torch.finfo(x.dtype).eps).clamp(min=torch.finfo(low.dtype).tiny)
    return (low / torch.maximum(high, floor)).mean()


def _norms(x: Tensor) -> Tensor:
    # Squares of float32 can overflow; in float64 they cannot.
    norms: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), dtype=torch.float64)
    return norms
