"""Random numbers as a pure function of (seed, purpose, index): nothing to save, nothing to restore.

Every number is the hash of its own coordinates (SplitMix64, Steele et al. 2014), so a replayed step, another
evaluation batch, another worker or another device draws the same numbers. The hash is int64 arithmetic, which torch
wraps around silently on the CPU and on CUDA alike, and which torch.compile and CUDA graphs can capture.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable

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
    return (value >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _hash(value: Tensor) -> Tensor:
    return _hash_(value.clone())


def _hash_(value: Tensor) -> Tensor:
    """In place: pixels' numbers are millions a step, and each piece of new memory costs a CPU as much as the sum."""
    value += _GOLDEN
    for bits_, factor in ((30, _MIX_1), (27, _MIX_2)):
        value ^= _shift(value, bits_)
        value *= factor
    value ^= _shift(value, 31)
    return value


KERNEL = """template <typename T> T hashed(T row, T position) {
    unsigned long long value = (unsigned long long)row ^ (unsigned long long)position;
    value += 0x9E3779B97F4A7C15ull;
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ull;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBull;
    value = value ^ (value >> 31);
    return RESULT;
}"""
"""As `hashed`, for the compiler of CUDA's runtime: unsigned numbers wrap around, and shift zeros in."""

RESULTS = {"bits": "(T)value", "centred": "(T)((long long)(value >> 40) - 8388608ll)"}


def hashed(row: Tensor, position: Tensor, result: str) -> Tensor:
    """The hash of row ^ position; centred: its upper 24 bits, less 2^23."""
    value = _hash_(row ^ position)
    if result == "centred":
        # The sign bit turned over, a shift that keeps the sign takes 2^23 from them.
        value.bitwise_xor_(-(1 << 63)).bitwise_right_shift_(40)
    return value


@functools.cache
def kernel_of(device: torch.device, result: str) -> Callable[[Tensor, Tensor], Tensor] | None:
    """`hashed` as one operation of a GPU; None where it cannot be had, or says another thing than torch's own ones."""
    if device.type != "cuda":
        return None
    probe = torch.tensor([0, 1, -1, _GOLDEN, _MIX_1, 1 << 62], device=device)
    row, position = probe[:, None], probe[None, :]
    try:
        kernel: Callable[[Tensor, Tensor], Tensor]
        kernel = torch.cuda.jiterator._create_jit_fn(KERNEL.replace("RESULT", RESULTS[result]))
        return kernel if torch.equal(kernel(row, position), hashed(row, position, result)) else None
    except Exception:  # beta, and a compiler: without it numbers are the same, in more operations
        return None


def _numbers(row: Tensor, shape: tuple[int, ...], result: str) -> Tensor:
    """[*row.shape, *shape] int64 for every (row, position)."""
    position = positions(math.prod(shape), row.device)[None, :]
    kernel = kernel_of(row.device, result)
    made = hashed(row[..., None], position, result) if kernel is None else kernel(row[..., None], position)
    return made.reshape(*row.shape, *shape)


@functools.cache
def positions(count: int, device: torch.device) -> Tensor:
    """Hashes of 0 .. count - 1; made on the host, so that no stream finds them half done."""
    return _hash_(torch.arange(count)).to(device)


def rows(key: int | Tensor, index: Tensor) -> Tensor:
    """What all numbers of an example hang on: `bits_of` makes them of it.

    Args:
        key: From `stream`; an int, or int64 of a shape that broadcasts to that of the index.
        index: int64, which examples (their place in the data set, or in the batch).

    Returns:
        int64 of the index's shape.
    """
    return _hash_(_hash(index) ^ key)


def bits_of(row: Tensor, shape: tuple[int, ...]) -> Tensor:
    """64 random bits for every (row, position).

    Args:
        row: int64, from `rows`.
        shape: What one example needs, e.g. (3, 32, 32); () for one number each.

    Returns:
        [*row.shape, *shape] int64.
    """
    return _numbers(row, shape, "bits")


def bits(key: int | Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """64 random bits for every (index, position).

    Args:
        key: From `stream`; an int, an int64 scalar tensor (so that a captured graph can be replayed with another), or
            [N] int64, one for each example.
        index: [N] int64, which examples (their place in the data set, or in the batch).
        shape: What one example needs, e.g. (3, 32, 32); () for one number each.

    Returns:
        [N, *shape] int64.
    """
    return bits_of(rows(key, index), shape)


def uniform_of(row: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """As `uniform`, of rows: [..., *shape] float32 in [0, 1), of rows [...] int64."""
    return _shift(bits_of(row, shape), 40).to(torch.float32).mul_(2.0**-24)


def symmetric_of(
    row: Tensor, shape: tuple[int, ...] = (), scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Uniform numbers in [-scale, scale), of rows: scale (2 `uniform_of` - 1), rounded once, by the scale.

    Args:
        row: int64, from `rows`.
        shape: What one example needs.
        scale: Half of the interval.
        dtype: float32 or float64, in which they are scaled.

    Returns:
        [*row.shape, *shape].
    """
    return _numbers(row, shape, "centred").to(dtype).mul_(2.0**-23 * scale)


def uniform(key: int | Tensor, index: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform numbers in [0, 1), the same on every device.

    Args:
        key: From `stream`.
        index: [N] int64, which examples.
        shape: What one example needs.

    Returns:
        [N, *shape] float32 with 24 random bits.
    """
    return uniform_of(rows(key, index), shape)


def normal(key: int | Tensor, index: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Standard normal numbers by the Box-Muller transform: sqrt(-2 ln u) cos(2 pi v).

    Args:
        key: From `stream`.
        index: [N] int64, which examples.
        shape: What one example needs.

    Returns:
        [N, *shape] float32.
    """
    return normal_of(rows(key, index), shape)


def normal_of(row: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """As `normal`, of rows: [..., *shape] float32, by Box and Muller's method, of rows [...] int64."""
    raw = bits_of(row, shape)
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
    return permutation_of(rows(key, torch.arange(count, device=device, dtype=torch.int64)))


def permutation_of(row: Tensor) -> Tensor:
    """As `permutation`, of rows [..., count]: those along the last dimension belong to one order."""
    return torch.argsort(bits_of(row, ()), stable=True)
