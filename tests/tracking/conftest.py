"""Trackers of one database, and the storage beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.storage.storage import Storage
from tests.support.tracking_world import Tracker


@pytest.fixture
def make(at: Callable[[Path], Tracker], tmp_path: Path) -> Callable[[], Tracker]:
    """Each call gives a tracker as a new process has it."""
    return lambda: at(tmp_path)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))
