"""Files in a folder or bucket: attempts, records, checkpoints, leases, plans, speeds."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.storage.attempts import Attempt as Attempt
    from ablate.storage.records import Record as Record
    from ablate.storage.status import TrainingStatus as TrainingStatus
    from ablate.storage.status import TrainingView as TrainingView
    from ablate.storage.storage import Storage as Storage

_PLACES = {
    "Attempt": "ablate.storage.attempts",
    "Record": "ablate.storage.records",
    "Storage": "ablate.storage.storage",
    "TrainingStatus": "ablate.storage.status",
    "TrainingView": "ablate.storage.status",
}

__all__ = ["Attempt", "Record", "Storage", "TrainingStatus", "TrainingView"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
