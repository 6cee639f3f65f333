"""What is to be measured of a training, as plans hand it to workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ablate.core.filters import Filter
from ablate.spaces.specs import MeasurementSpec, TrialSpec


@dataclass(frozen=True)
class MadeOn:
    """The network that examples are made on, where it is another one than that which classifies them.

    Args:
        training: Its training's key.
        network: As keys call it.
        spec: The trial that trains it.
    """

    training: str
    network: str
    spec: TrialSpec


@dataclass(frozen=True)
class PlannedMeasurement:
    """One attack or analysis on one network of a training, or another network's examples on it.

    Args:
        key: Its measurement key.
        kind: Whether `name` is an attack or an analysis, or a column of transferred examples.
        name: As registered.
        network: As keys call it: `last`, `best`, `ema:0.999@0`, `epoch:60`.
        filter: In front of the network; None without one.
        adaptive: Whether the attack sees the filter.
        settings: Where the attack's hyperparameters come from.
        parts: Of a column made of others, their names and measurement keys.
        made_on: Of transferred examples, the network they are made on.
    """

    key: str
    kind: Literal["attack", "analysis", "transfer"]
    name: str
    network: str
    filter: Filter | None
    adaptive: bool
    settings: MeasurementSpec
    parts: tuple[tuple[str, str], ...] = ()
    made_on: MadeOn | None = None
