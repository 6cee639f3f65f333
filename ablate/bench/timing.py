"""Paired timing: what is compared runs in turn, in one process, so that a slow minute slows all of it."""

from __future__ import annotations

import contextlib
import ctypes
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of several measurements."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one number."""
        return cls(min(values), statistics.median(values), max(values))

    def times(self) -> str:
        """Of ratios: `1.02x (0.98 to 1.10)`."""
        return f"{self.median:.2f}x ({self.low:.2f} to {self.high:.2f})"

    def as_json(self) -> dict[str, float]:
        """As plain data."""
        return {"low": self.low, "median": self.median, "high": self.high}


@dataclass(frozen=True)
class Timed:
    """One contestant's seconds, a number a round, and the most memory it needed at once.

    Args:
        seconds: In the order of the rounds.
        peak_bytes: Above what was held before; NaN where it cannot be told.
    """

    seconds: tuple[float, ...]
    peak_bytes: float

    def over(self, count: int) -> Timed:
        """Of one piece of work, where each round did it so often."""
        return replace(self, seconds=tuple(taken / count for taken in self.seconds))

    def rate(self, images: int) -> Spread:
        """Images per second.

        Args:
            images: In one round.
        """
        return Spread.of([images / second for second in self.seconds])

    def faster_than(self, other: Timed) -> Spread:
        """How many times as fast as another contestant, round by round."""
        return Spread.of([theirs / ours for ours, theirs in zip(self.seconds, other.seconds, strict=True)])


def in_turn(contestants: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, Timed]:
    """Time contestants in turn: one warm-up each, during which memory is watched, then `rounds` times each.

    Every other round goes backwards, so that none always runs on what the same other left behind.

    Args:
        contestants: By name.
        rounds: Measurements of each.
        device: Waited for at the end of each.
    """
    peaks = {name: _peak_bytes(work, device) for name, work in contestants.items()}
    return {name: Timed(taken, peaks[name]) for name, taken in alternately(contestants, rounds, device).items()}


def alternately(
    contestants: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device
) -> dict[str, tuple[float, ...]]:
    """Seconds of each round of contestants that take turns, without a warm-up: as of `in_turn`."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for turn in range(rounds):
        for name in order if turn % 2 == 0 else reversed(order):
            began = time.perf_counter()
            contestants[name]()
            wait(device)
            seconds[name].append(time.perf_counter() - began)
    return {name: tuple(taken) for name, taken in seconds.items()}


LEAST_ROUND_S = 0.5
"""Of a steady stream of steps: what one step leaves queued on a GPU, the next one has to wait for."""

_MOST_STEPS = 10_000


def steps_of(step: Callable[[], Any], device: torch.device) -> int:
    """How many steps fill a round, found by trying; they also warm up.

    Args:
        step: One.
        device: Where.
    """
    steps = 1
    while True:
        began = time.perf_counter()
        for _ in range(steps):
            step()
        wait(device)
        taken = time.perf_counter() - began
        if taken >= LEAST_ROUND_S or steps >= _MOST_STEPS:
            return steps
        steps = min(_MOST_STEPS, max(2 * steps, int(1.1 * steps * LEAST_ROUND_S / max(taken, 1e-6)) + 1))


def steady(work: Callable[[], Any], device: torch.device) -> tuple[Callable[[], None], int]:
    """Work done over and over, so long that a round tells what a training gets of it.

    Args:
        work: One piece.
        device: Where.

    Returns:
        A round of it, and how many pieces that is.
    """
    count = steps_of(work, device)

    def stream() -> None:
        for _ in range(count):
            work()

    return stream, count


def wait(device: torch.device) -> None:
    """Until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(work: Callable[[], Any], device: torch.device) -> float:
    work()  # compiles, and fills caches that stay
    wait(device)
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        wait(device)
        return float(torch.cuda.max_memory_allocated(device) - held)
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # else what an earlier contestant freed would serve this one
        # The kernel's own high-water mark of this process, set back to what it holds now (Linux).
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        work()
        return _status("VmHWM") - before
    except (OSError, KeyError):
        work()
        return math.nan


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return float(value.split()[0]) * 1024
    raise KeyError(field)
