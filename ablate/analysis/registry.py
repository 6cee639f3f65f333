"""Analyses by name: what a figure needs, computed where the network is, drawn elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from ablate.registry import Registry


@dataclass(frozen=True)
class AnalysisContext:
    """What an analysis may look at.

    Args:
        network: In eval mode, on the device.
        images: [N, 3, H, W] uint8 test images on the device.
        labels: [N] int64.
        adversarial: Makes the PGD-20 examples (float in [0, 1]) of the images at the given places, [M] int64.
        seed: The training's seed.
        batch_size: Images to work on at once.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor
    adversarial: Callable[[Tensor], Tensor]
    seed: int
    batch_size: int


@dataclass(frozen=True)
class AnalysisResult:
    """What an analysis found.

    Args:
        scalars: Metric (`name/what`) -> value.
        arrays: Name -> array, for figures.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)


Analysis = Callable[[AnalysisContext], AnalysisResult]
_analyses: Registry[Analysis] = Registry("measurement.analyses")
register_analysis = _analyses.register
get_analysis = _analyses.get
analysis_names = _analyses.names
analysis_source = _analyses.source_digest
