"""Several trainings in one process: what they do in turn, beside the same trainings one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ablate.bench.cases import Case, training_step
from ablate.bench.timing import Spread, in_turn, steps_of, wait
from ablate.spaces.specs import ModelSpec

COUNTS_ON_A_GPU, COUNTS_ON_A_CPU = (1, 2, 4, 8, 16), (1, 2)


@dataclass(frozen=True)
class Streams:
    """What trainings in one process did.

    Args:
        label: The network in words.
        model: Its spec as plain data.
        mode: Precision and compilation.
        batch_size: Of each.
        count: How many there were.
        rate: Images per second of all together, in turn.
        faster: How many times as fast as one after the other.
        peak_bytes: The most memory that they needed at once above what was held before.
    """

    label: str
    model: dict[str, Any]
    mode: str
    batch_size: int
    count: int
    rate: Spread
    faster: Spread
    peak_bytes: float

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        plain = {name: getattr(self, name) for name in ("label", "model", "mode", "batch_size", "count", "peak_bytes")}
        return {**plain, "images_per_second": self.rate.as_json(), "ratio": self.faster.as_json()}

    def line(self) -> str:
        """A row of the table."""
        memory = "" if self.peak_bytes != self.peak_bytes else f"{self.peak_bytes / 2**20:,.0f} MiB"
        what = f"{self.label:<24} {self.batch_size:>5} {self.count:>7}"
        return f"{what} {self.rate.median:>13,.1f} {self.faster.times():>21} {memory:>12}"


HEAD = (
    f"{'network':<24} {'batch':>5} {'at once':>7} {'images/s, all':>13} {'one after another':>21} {'memory, all':>12}"
)


def time_streams(
    model: ModelSpec, batch_size: int, count: int, mode: str, rounds: int, device: torch.device
) -> Streams:
    """Time trainings that take turns in this process, and the same ones one after the other.

    Args:
        model: The network of each.
        batch_size: Of each.
        count: How many.
        mode: Of `ablate.bench.cases.MODES`.
        rounds: Measurements of both, in turn.
        device: Shared by all.
    """
    trainings = [training_step(model, batch_size, mode, device) for _ in range(count)]

    def round_of(steps: int, order: Sequence[Sequence[int]]) -> None:
        for group in order:
            for _ in range(steps):
                for number in group:
                    trainings[number]()
            wait(device)  # else the next one would overlap with it

    together, alone = [list(range(count))], [[number] for number in range(count)]
    for _ in range(4):  # captures graphs
        round_of(1, alone)
    steps = steps_of(lambda: round_of(1, together), device)
    timed = in_turn(
        {"in turn": lambda: round_of(steps, together), "alone": lambda: round_of(steps, alone)}, rounds, device
    )
    label = Case(model, batch_size, "step").label
    return Streams(
        label,
        model.model_dump(mode="json"),
        mode,
        batch_size,
        count,
        timed["in turn"].rate(steps * count * batch_size),
        timed["in turn"].faster_than(timed["alone"]),
        timed["in turn"].peak_bytes,
    )
