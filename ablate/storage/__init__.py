"""Files in a folder or bucket: attempts, records, checkpoints, leases, plans, speeds."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.storage.storage import Attempt as Attempt
    from ablate.storage.storage import Record as Record
    from ablate.storage.storage import Storage as Storage
    from ablate.storage.storage import TrainingStatus as TrainingStatus
    from ablate.storage.storage import TrainingView as TrainingView

_PLACES = {
    "Attempt": "ablate.storage.storage",
    "Record": "ablate.storage.storage",
    "Storage": "ablate.storage.storage",
    "TrainingStatus": "ablate.storage.storage",
    "TrainingView": "ablate.storage.storage",
}

__all__ = ["Attempt", "Record", "Storage", "TrainingStatus", "TrainingView"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
