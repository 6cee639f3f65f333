"""What training recipes cost beside PGD-7: TRADES, MART, AWP, one-step attacks and averages of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ablate.bench.cases import Case, training_step
from ablate.bench.timing import Spread, in_turn, steady
from ablate.learning.cost import image_cost
from ablate.spaces.specs import ModelSpec, TrialSpec

BASELINE = "PGD-7"
RECIPES: Mapping[str, dict[str, Any]] = {
    BASELINE: {},
    "PGD-7, EMA": {"ema": {}},
    "TRADES": {"objective": "trades", "attack": {"steps": 10}},
    "TRADES of 7 steps": {"objective": "trades"},
    "MART": {"objective": "mart", "attack": {"steps": 10}},
    "AWP": {"awp": 0.005},
    "TRADES + AWP": {"objective": "trades", "attack": {"steps": 10}, "awp": 0.005},
    "FGSM-RS": {"attack": {"name": "fgsm_rs"}},
    "N-FGSM": {"attack": {"name": "n_fgsm"}},
}
"""Name -> settings of training; TRADES and MART attack in ten steps, as their authors do."""


@dataclass(frozen=True)
class Recipe:
    """What a step of a recipe took.

    Args:
        label: The network in words.
        name: Of `RECIPES`.
        mode: Precision and compilation.
        batch_size: Images of a step.
        rate: Images per second.
        cost: How many times as long as a step of PGD-7, round by round.
        counted: The same by the passes through the network that are counted for estimates.
    """

    label: str
    name: str
    mode: str
    batch_size: int
    rate: Spread
    cost: Spread
    counted: float

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        plain = {name: getattr(self, name) for name in ("label", "name", "mode", "batch_size", "counted")}
        return {**plain, "images_per_second": self.rate.as_json(), "cost": self.cost.as_json()}

    def line(self) -> str:
        """A row of the table."""
        what = f"{self.label:<24} {self.batch_size:>5} {self.name:<18}"
        return f"{what} {self.rate.median:>8,.1f} {self.cost.times():>21} {self.counted:>8.2f}x"


HEAD = f"{'network':<24} {'batch':>5} {'recipe':<18} {'images/s':>8} {'time, of PGD-7':>21} {'counted':>9}"


def time_recipes(model: ModelSpec, batch_size: int, mode: str, rounds: int, device: torch.device) -> list[Recipe]:
    """Time a step of each recipe with its update, in turn.

    Args:
        model: The network.
        batch_size: Images of a step.
        mode: Of `ablate.bench.cases.MODES`.
        rounds: Measurements of each.
        device: Where.

    Returns:
        In the order of `RECIPES`.
    """
    streams, repeats = {}, {}
    for name, settings in RECIPES.items():
        streams[name], repeats[name] = steady(training_step(model, batch_size, mode, device, settings), device)
    timed = {name: found.over(repeats[name]) for name, found in in_turn(streams, rounds, device).items()}
    label = Case(model, batch_size, "step").label
    return [
        Recipe(
            label,
            name,
            mode,
            batch_size,
            timed[name].rate(batch_size),
            timed[BASELINE].faster_than(timed[name]),
            _passes(name) / _passes(BASELINE),
        )
        for name in RECIPES
    ]


def _passes(name: str) -> float:
    return image_cost(TrialSpec.model_validate({"training": RECIPES[name]}))
