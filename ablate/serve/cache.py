"""A storage as it was seen last: what has not changed since is not read again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ablate.storage import leases
from ablate.storage.attempts import attempts_of
from ablate.storage.files import Files
from ablate.storage.leases import Leases
from ablate.storage.read_only import ReadOnlyFiles
from ablate.storage.records import Record
from ablate.storage.status import TrainingView
from ablate.storage.storage import Storage

MOST_RECORD_BYTES = 256_000_000
"""Of records kept in memory; what verdicts ask for again and again is each image's correctness."""


@dataclass(frozen=True)
class _Cached:
    """A training at the last look, and the names of files by which a change shows: every manifest has its own."""

    names: tuple[tuple[str, ...], ...]
    view: TrainingView


class ReadOnly(ReadOnlyFiles):
    """Files that are read alone.

    Args:
        files: What is read.
    """

    def __init__(self, files: Files) -> None:
        self.location = files.location
        self.read, self.list, self.size = files.read, files.list, files.size


class CachedStorage(Storage):
    """A storage that is read anew by `look` alone; in between, every answer is as of the last look.

    Args:
        location: A folder's path, or a URI of `pyarrow.fs`.
    """

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.files: Files = ReadOnly(self.files)
        self._leases = Leases(self.files)  # never entered: it looks at others' leases, and makes none
        self._trainings: dict[str, _Cached] = {}
        self._held: set[str] = set()
        self._given_back: dict[str, int] = {}
        self._histories: dict[str, tuple[tuple[str, ...], list[dict[str, Any]]]] = {}
        self._records: OrderedDict[tuple[str, str], tuple[int, Record]] = OrderedDict()
        self._record_bytes = 0
        self._lock = threading.Lock()  # tables and figures are made beside the looks

    def look(self, keys: Iterable[str]) -> set[str]:
        """Read what has changed of some trainings.

        Args:
            keys: Of those that may have changed.

        Returns:
            The keys of those that did, or that began or ended to be held by a launch.

        Raises:
            StorageError: Storage does not answer.
        """
        begun, leased = set(self.files.list("")), set(self.files.list("claims"))
        changed = set()
        for key in keys:
            held = key in leased and self._is_held(key)
            if held != (key in self._held):
                changed.add(key)
            (self._held.add if held else self._held.discard)(key)
            if key in begun or key in self._trainings:
                changed |= {key} if self._read(key) else set()
        return changed

    def forget(self) -> None:
        """Read everything anew at the next look: what was seen may be of a storage that is going away."""
        self._trainings.clear()
        self._held.clear()
        self._given_back.clear()

    def held(self, key: str) -> bool:
        """Whether a living launch held a training at the last look."""
        return key in self._held

    def view(self, key: str) -> TrainingView:
        """See `Storage`."""
        found = self._trainings.get(key)
        return TrainingView(key) if found is None else found.view

    def history(self, key: str) -> list[dict[str, Any]]:
        """See `Storage`; nothing is written."""
        now = self.view(key).histories
        kept = self._histories.get(key)
        if kept is None or kept[0] != now:
            kept = (now, super().history(key) if now else [])
            self._histories[key] = kept
        return kept[1]

    def record(self, view: TrainingView, measurement: str) -> Record | None:
        """See `Storage`."""
        where = view.records.get(measurement)
        if where is None:
            return None
        with self._lock:
            if where in self._records:
                self._records.move_to_end(where)
                return self._records[where][1]
        record = super().record(view, measurement)
        if record is not None:
            self._keep(where, record)
        return record

    def _keep(self, where: tuple[str, str], record: Record) -> None:
        size = 1_000 + sum(array.nbytes for array in record.arrays.values())
        with self._lock:
            self._record_bytes += size - self._records.pop(where, (0, record))[0]
            self._records[where] = (size, record)
            while self._record_bytes > MOST_RECORD_BYTES and len(self._records) > 1:
                self._record_bytes -= self._records.popitem(last=False)[1][0]

    def _read(self, key: str) -> bool:
        """Whether a training's files are others than at the last look; its view is then new."""
        attempts = attempts_of(self.files, key)
        names = (tuple(attempts), *(tuple(self.files.list(f"{key}/attempts/{each}")) for each in attempts[-1:]))
        before = self._trainings.get(key)
        if before is not None and before.names == names:
            return False
        self._trainings[key] = _Cached(names, super().view(key))
        return True

    def _is_held(self, key: str) -> bool:
        number = leases.highest(self.files, key)
        if self._given_back.get(key) == number:
            return False  # a lease that was given back stays so: the next one has another number
        held = self._leases.held_elsewhere(key)
        if not held and leases.owner_of(self.files, key, number) is None:
            self._given_back[key] = number
        return held
