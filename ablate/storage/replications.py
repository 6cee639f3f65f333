"""Finished trainings that were trained again: each time a storage of its own, which no launch reads a result from.

    <storage>/replications/<n>/request.json     which trainings, written before the first of them
    <storage>/replications/<n>/<training_key>/  as in a storage

A request of which something is left to do is gone on with; the same trainings asked for after that are the next one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping

from ablate.core.errors import StorageError
from ablate.core.text import now_ms
from ablate.spaces.specs import Spec
from ablate.storage.checksums import read_json
from ablate.storage.files import BucketFiles, LocalFiles
from ablate.storage.layers import FilesWithin
from ablate.storage.status import TrainingStatus, TrainingView
from ablate.storage.storage import Storage

LAYOUT = 1
FOLDER = "replications"
_NAME = re.compile(r"\d{4,9}", re.ASCII)
_TRIES = 100


class Request(Spec):
    """What one launch trains again: the keys of the trainings."""

    layout: int
    keys: list[str]
    requested_ms: int


def storage_of(storage: Storage, name: str) -> Storage:
    """The storage of one replication.

    Args:
        storage: Of what is replicated.
        name: Of the replication.
    """
    if not isinstance(storage.files, (LocalFiles, BucketFiles)):  # of a bundle, which is no place to be opened at
        return Storage.of(FilesWithin(storage.files, f"{FOLDER}/{name}"))
    place, mark, query = storage.location.partition("?")  # of a bucket: its options
    return Storage(f"{place.rstrip('/')}/{FOLDER}/{name}{mark}{query}")


def names(storage: Storage) -> list[str]:
    """The replications of a storage, the first one first."""
    return sorted((name for name in storage.files.list(FOLDER) if _NAME.fullmatch(name)), key=int)


def of_trainings(storage: Storage, keys: Iterable[str]) -> dict[str, list[tuple[str, Storage, TrainingView]]]:
    """Where trainings were trained again, to their end.

    Args:
        storage: Of what is replicated.
        keys: The trainings'.

    Returns:
        Training -> name, storage and state of each replication, the first one first.
    """
    found: dict[str, list[tuple[str, Storage, TrainingView]]] = {key: [] for key in keys}
    for name in names(storage):
        inner = storage_of(storage, name)
        for key in found.keys() & set(inner.keys()):
            view = inner.view(key)
            if view.finished:
                found[key].append((name, inner, view))
    return found


def open_one(storage: Storage, wanted: Mapping[str, Iterable[str]], *, write: bool = True) -> tuple[str, Storage]:
    """The replication that a launch works on.

    Args:
        storage: Of what is replicated.
        wanted: Training -> its measurements.
        write: Write the request of a new one; a dry run does not.

    Returns:
        Name and storage: of the latest request for these trainings, where something of it is left to do; else anew.

    Raises:
        StorageError: Storage cannot be written.
    """
    there = names(storage)
    for name in reversed(there):
        if _request(storage, name) == sorted(wanted):
            inner = storage_of(storage, name)
            if any(inner.view(key).status(keys) is not TrainingStatus.FINISHED for key, keys in wanted.items()):
                return name, inner
            break
    first = 1 + int(there[-1]) if there else 1
    request = Request(layout=LAYOUT, keys=sorted(wanted), requested_ms=now_ms())
    for number in range(first, first + _TRIES):  # another launch may take the same number
        name = f"{number:04d}"
        content = request.model_dump_json(indent=1).encode()
        if not write or storage.files.create(f"{FOLDER}/{name}/request.json", content):
            return name, storage_of(storage, name)
    raise StorageError(f"expected to write {FOLDER}/{first:04d} in {storage.location}, got other launches every time")


def _request(storage: Storage, name: str) -> list[str] | None:
    """The trainings that a replication is of; None where that cannot be read."""
    content = storage.files.read(f"{FOLDER}/{name}/request.json")
    with contextlib.suppress(ValueError):
        return sorted(Request.model_validate(read_json(content)).keys)
    return None
