"""Robust overfitting: accuracy under attack on held-out images over the epochs, and what the best epoch would gain.

Robust accuracy falls while training goes on (arXiv 2002.11569), so that a row may win by where it was stopped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ablate.core.text import listed
from ablate.report.results import Results, Trial, along_epochs
from ablate.spaces.networks import AverageName, Network

ROBUST = "validation/robust"
"""Accuracy on the images held out, under PGD-7 of 8/255, whatever the training attack is."""


@dataclass(frozen=True)
class BestEpoch:
    """What a row would gain on held-out images, had it been stopped at its best epoch.

    Args:
        epoch: With the highest mean over the seeds.
        of: The last epoch.
        gain: Points over the last epoch, the mean over the seeds.
    """

    epoch: int
    of: int
    gain: float


def validated(results: Results) -> bool:
    """Whether some training held images out."""
    return any(_setting(trial, "data", "validation") for trial in results.trials.values())


def robust_curve(trial: Trial, network: Network = "last") -> Mapping[int, float] | None:
    """Robust accuracy on held-out images by epoch, of the weights that a trial is about.

    Args:
        trial: The trial.
        network: Whose numbers are shown; those of `ema` and `ema_best` have the average's curve.

    Returns:
        Epoch -> percent; None where nothing was held out.
    """
    if not _setting(trial, "data", "validation"):
        return None
    asked = _setting(trial, "measurement", "network") or network
    average = _setting(trial, "training", "ema")
    name = ROBUST
    if str(asked).startswith("ema") and average:
        recalibrated = average.get("normalization") == "recalibrated"
        name = AverageName(average["decay"], average["start"], recalibrated).curve(ROBUST)
    return trial.curves.get(name) or None


def best_epochs(results: Results) -> dict[str, BestEpoch]:
    """Row -> its best epoch; rows without held-out images, and those that chose by them already, are left out."""
    found = {}
    for row, curves in _curves(results).items():
        epochs, values = along_epochs([{epoch: value for epoch, value in curve.items() if epoch} for curve in curves])
        if epochs:
            mean = values.mean(axis=0)
            best = int(mean.argmax())
            found[row] = BestEpoch(epochs[best], epochs[-1], float(mean[best] - mean[-1]))
    return found


def sentence(results: Results) -> str:
    """What a table says of it below its numbers; empty where nothing was held out."""
    alike: dict[str, list[str]] = {}  # rows of one training say it once
    for row, best in best_epochs(results).items():
        alike.setdefault(f"{best.gain:.2f} points for {{}} (epoch {best.epoch} of {best.of})", []).append(row)
    if not alike:
        return ""
    told = [said.format(listed(rows, 1)) for said, rows in alike.items()]
    return f"Robust overfitting: on held-out images, under PGD-7, the best epoch would gain {', '.join(told)}"


def as_json(results: Results) -> dict[str, dict[str, float | int]]:
    """The same of the networks after the last epoch as plain data, whichever are shown: row -> epoch and points."""
    last = best_epochs(dataclasses.replace(results, network="last"))
    return {row: {"epoch": each.epoch, "gain": each.gain} for row, each in last.items()}


def _curves(results: Results) -> dict[str, list[Mapping[int, float]]]:
    curves: dict[str, list[Mapping[int, float]]] = {}
    for row, trial in _trained(results):
        asked = _setting(trial, "measurement", "network") or results.network
        curve = robust_curve(trial, results.network)
        if asked in ("last", "ema") and curve and all(map(math.isfinite, curve.values())):
            curves.setdefault(row, []).append(curve)
    return curves


def _trained(results: Results) -> Iterator[tuple[str, Trial]]:
    for (row, _), trial in results.trials.items():
        if trial.problem is None or trial.gap is not None:
            yield row, trial


def _setting(trial: Trial, group: str, name: str) -> Any:
    return trial.part.spec.get(group, {}).get(name)
