"""How a search's sample has ended, from its training in storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ablate.spaces.search import SearchSpec
from ablate.storage.status import TrainingStatus, TrainingView, reaches


@dataclass(frozen=True)
class SampleEnd:
    """How a sample ended.

    Args:
        state: `complete`: trained to its last epoch; `stopped`: early; `failed`: with a reason.
        values: Of the objectives after the last epoch, in their order; empty unless complete.
        curve: Epoch -> value of the first objective.
        reason: Why it failed.
    """

    state: Literal["complete", "stopped", "failed"]
    values: tuple[float, ...] = ()
    curve: Mapping[int, float] = field(default_factory=dict)
    reason: str = ""


def sample_end(view: TrainingView, history: Sequence[Mapping[str, Any]], search: SearchSpec) -> SampleEnd | None:
    """How a sample has ended, from its training in storage.

    Args:
        view: Of the training.
        history: Of the training.
        search: For its objectives.

    Returns:
        None where it has not ended.
    """
    metrics = [objective.metric for objective in search.objective]
    curve = {
        int(entry["epoch"]): float(entry["metrics"][metrics[0]])
        for entry in history
        if entry["epoch"] > 0 and metrics[0] in entry["metrics"]
    }
    status = view.status()
    if status is TrainingStatus.FINISHED:
        last = history[-1]["metrics"] if history and reaches(history, view.epoch) else {}
        missing = [metric for metric in metrics if metric not in last]
        if missing:
            return SampleEnd("failed", reason=f"its history has no {missing[0]}")
        return SampleEnd("complete", tuple(float(last[metric]) for metric in metrics), curve)
    if status is TrainingStatus.FAILED:
        return SampleEnd("failed", curve=curve, reason=view.reason or "")
    if status is TrainingStatus.STOPPED:
        return SampleEnd("stopped", curve=curve)
    return None
