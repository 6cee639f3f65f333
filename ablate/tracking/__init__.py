"""Storage -> MLflow and back; the only package that imports mlflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablate.core.lazy import lazy_exports

if TYPE_CHECKING:
    from ablate.tracking.tracker import Tracker as Tracker
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
