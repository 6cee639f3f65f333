"""What is deleted of a storage: trainings as a whole, and single records of those that stay.

Manifests go first: what is cut short in between leaves files that nobody reads, and the same again deletes them. Leases
stay, a few bytes each: their numbers only grow, by which a worker that outlived its launch is told apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ablate.storage import replications
from ablate.storage.attempts import Attempt, manifests_of
from ablate.storage.files import BucketFiles, LocalFiles
from ablate.storage.origins import path_of
from ablate.storage.storage import Storage


def training_files(storage: Storage, key: str) -> dict[str, int]:
    """Every file of a training: path -> bytes, in the order in which they are deleted."""
    found: dict[str, int] = {}
    for attempt in storage.files.list(f"{key}/attempts"):
        base = f"{key}/attempts/{attempt}"
        for name in sorted(storage.files.list(base), key=lambda each: not each.startswith("manifest-")):
            size = storage.files.size(f"{base}/{name}")
            if size is not None:
                found[f"{base}/{name}"] = size
    beside = {path: storage.files.size(path) for path in (f"{key}/training.json", path_of(key))}
    return found | {path: size for path, size in beside.items() if size is not None}


def delete_training(storage: Storage, key: str) -> int:
    """Delete a training with all that was measured of it.

    Returns:
        Bytes freed.

    Raises:
        StorageError: Something cannot be deleted.
    """
    files = training_files(storage, key)
    attempts = storage.files.list(f"{key}/attempts")
    for path in files:
        storage.files.delete(path)
    if isinstance(storage.files, LocalFiles | BucketFiles):
        storage.files.drop_empty(*(f"{key}/attempts/{attempt}" for attempt in attempts), f"{key}/attempts", key)
    return sum(files.values())


def record_files(storage: Storage, key: str, measurements: Collection[str]) -> dict[str, int]:
    """Files of some of a training's records: path -> bytes."""
    return {
        f"{key}/attempts/{attempt}/{name}": storage.files.size(f"{key}/attempts/{attempt}/{name}") or 0
        for attempt, manifest in manifests_of(storage.files, key)
        for measurement, (name, _) in manifest["records"].items()
        if measurement in measurements
    }


def delete_records(storage: Storage, key: str, measurements: Collection[str]) -> int:
    """Delete some of a training's records; the others, its checkpoints and its history stay.

    Returns:
        Bytes freed.

    Raises:
        StorageError: Something cannot be deleted.
    """
    files = record_files(storage, key, measurements)
    for attempt, manifest in manifests_of(storage.files, key):
        if manifest["records"].keys() & set(measurements):
            Attempt(storage.files, key, attempt, manifest).forget_records(measurements)
    for path in files:
        storage.files.delete(path)
    return sum(files.values())


def replicas(storage: Storage, keys: Iterable[str]) -> list[tuple[Storage, str]]:
    """Where some trainings were trained again: storage and key of each."""
    wanted = set(keys)
    inner = [replications.storage_of(storage, name) for name in replications.names(storage)]
    return [(each, key) for each in inner for key in sorted(wanted & set(each.keys()))]
