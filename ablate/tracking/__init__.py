"""Storage -> MLflow and back; the only package that imports mlflow."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.tracking.tracker import Tracker as Tracker

_PLACES = {
    "Tracker": "ablate.tracking.tracker",
}

__all__ = ["Tracker"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
