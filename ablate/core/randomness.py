"""Random numbers as a pure function of (seed, purpose, index): nothing to save, nothing to restore.

Every number is the hash of its own coordinates (SplitMix64, Steele et al. 2014), so a replayed step, another
evaluation batch, another worker or another device draws the same numbers. The hash is int64 arithmetic, which torch
wraps around silently on the CPU and on CUDA alike, and which torch.compile and CUDA graphs can capture.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def stream(seed: int, purpose: str, *coordinates: int) -> int:
    """One 63-bit number that names a stream of random numbers.

    Args:
        seed: The trial's seed.
        purpose: What the numbers are for, e.g. `"crop"`; streams of different purposes are independent.
        coordinates: More of what tells this stream from others, e.g. epoch and step.

    Returns:
        The stream's key, to pass to `uniform`, `normal` or `permutation`.
    """
    text = repr((seed, purpose, *coordinates)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def _shift(value: Tensor, bits: int) -> Tensor:
    # torch's >> keeps the sign; SplitMix64 wants zeros shifted in.
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _hash(value: Tensor) -> Tensor:
    value = value + _GOLDEN
    value = (value ^ _shift(value, 30)) * _MIX_1
    value = (value ^ _shift(value, 27)) * _MIX_2
    return value ^ _shift(value, 31)


def bits(key: int | Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """64 random bits for every (index, position).

    Args:
        key: From `stream`; an int, or an int64 scalar tensor (so that a captured graph can be replayed with another).
        index: [N] int64, which examples (their place in the data set, or in the batch).
        shape: What one example needs, e.g. (3, 32, 32); () for one number each.

    Returns:
        [N, *shape] int64.
    """
    count = math.prod(shape)
    row = _hash(_hash(index) ^ key)
    position = torch.arange(count, device=index.device, dtype=torch.int64)
    return _hash(row[:, None] ^ _hash(position)[None, :]).reshape(index.shape[0], *shape)


def uniform(key: int | Tensor, index: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform numbers in [0, 1), the same on every device.

    Args:
        key: From `stream`.
        index: [N] int64, which examples.
        shape: What one example needs.

    Returns:
        [N, *shape] float32 with 24 random bits.
    """
    return _shift(bits(key, index, shape), 40).to(torch.float32) * 2.0**-24


def normal(key: int | Tensor, index: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Standard normal numbers by the Box-Muller transform: sqrt(-2 ln u) cos(2 pi v).

    Args:
        key: From `stream`.
        index: [N] int64, which examples.
        shape: What one example needs.

    Returns:
        [N, *shape] float32.
    """
    raw = bits(key, index, shape)
    radius = (_shift(raw, 40).to(torch.float32) + 1.0) * 2.0**-24  # in (0, 1]: its logarithm is finite
    angle = ((raw & 0xFFFFFF).to(torch.float32)) * (2.0**-24 * 2.0 * math.pi)
    return torch.sqrt(-2.0 * torch.log(radius)) * torch.cos(angle)


def permutation(key: int | Tensor, count: int, device: torch.device | str = "cpu") -> Tensor:
    """A random order of 0 .. count - 1.

    Args:
        key: From `stream`.
        count: How many.
        device: Where the result lies.

    Returns:
        [count] int64.
    """
    index = torch.arange(count, device=device, dtype=torch.int64)
    return torch.argsort(bits(key, index, ()), stable=True)
