"""Analyses by name: what a figure needs, computed where the network is, drawn elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from ablate.core.errors import SpecError
from ablate.core.metric_names import refused
from ablate.core.registry import Registry, table


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
        corrupted: Corruption -> [5, M, 3, H, W] uint8, official corruptions of the first images; None: there are none.
        asked: What measurements ask instead of the network, cheaper and the same; None: the network itself.
        settings: Of `measurement`, what the analysis was registered with.
        progress: To be told now and then how much is done, and of how much.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor
    adversarial: Callable[[Tensor], Tensor]
    seed: int
    batch_size: int
    corrupted: Mapping[str, np.ndarray[Any, Any]] | None = None
    asked: Callable[[Tensor], Tensor] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    progress: Callable[[int, int], None] = lambda done, total: None

    def logits(self, images: Tensor) -> Tensor:
        """What the network says of [N, 3, H, W] float in [0, 1], in evaluation mode."""
        answer: Tensor = (self.asked or self.network)(images)
        return answer


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
Passes = Callable[[Mapping[str, Any], int, int], float]
"""The settings that an analysis uses, test images and their size in pixels -> forward passes of one image."""
_analyses: Registry[Analysis] = Registry("measurement.analyses", metrics=True)
_scalars: dict[str, tuple[str, ...] | None] = table({})
_settings: dict[str, tuple[str, ...] | None] = table({})
_passes: dict[str, Passes | None] = table({})


def register_analysis(
    name: str,
    *,
    scalars: Iterable[str] | None = None,
    settings: Iterable[str] | None = None,
    passes: Passes | None = None,
) -> Callable[[Analysis], Analysis]:
    """The decorator that makes an analysis available to `measurement.analyses` and to figures.

    Args:
        name: What space files call it.
        scalars: The metrics it can give, `name/what`, in which `*` stands for a number: a claim that names another one
            is refused before anything is trained. None: it does not say.
        settings: Names of the settings of `measurement` that change what it finds; its context has their values. None:
            those of PGD-20, which makes its examples.
        passes: What it costs, for estimates of how long a launch takes; None: as much as PGD-20 on all test images.

    Raises:
        SpecError: The name belongs to another analysis, or MLflow does not take it or a scalar's.
    """
    declared = None if scalars is None else tuple(scalars)
    for scalar in declared or ():
        problem = refused(scalar.replace("*", "0"))
        if problem is not None:
            raise SpecError(f"measurement.analyses: {name}: scalars: {problem}")

    def decorate(analysis: Analysis) -> Analysis:
        _analyses.register(name)(analysis)
        _scalars[name] = declared
        _settings[name] = None if settings is None else tuple(settings)
        _passes[name] = passes
        return analysis

    _analyses.check_name(name)
    return decorate


def declared_scalars(name: str) -> tuple[str, ...] | None:
    """The scalars an analysis can give, with `*` for a number; None where it does not say."""
    return _scalars[name]


def declared_settings(name: str) -> tuple[str, ...] | None:
    """The settings of `measurement` that change what an analysis finds; None: those of PGD-20."""
    return _settings[name]


def declared_passes(name: str) -> Passes | None:
    """Forward passes that an analysis amounts to; None where it does not say."""
    return _passes.get(name)


get_analysis = _analyses.get
analysis_names = _analyses.names
analysis_source = _analyses.source_digest
