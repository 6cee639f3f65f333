"""Files in a folder or bucket: attempts, records, checkpoints, leases, plans, speeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablate.core.lazy import lazy_exports

if TYPE_CHECKING:
    from ablate.storage.attempts import Attempt as Attempt
    from ablate.storage.records import Record as Record
    from ablate.storage.status import TrainingStatus as TrainingStatus
    from ablate.storage.status import TrainingView as TrainingView
    from ablate.storage.storage import Storage as Storage
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
