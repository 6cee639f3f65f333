"""Trainings that came from elsewhere: where from, beside their results, for as long as these are there.

<storage>/origins/<training_key>.json
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from ablate.spaces.specs import Spec
from ablate.storage.attempts import attempts_of
from ablate.storage.checksums import read_json
from ablate.storage.files import Files

LAYOUT = 1
FOLDER = "origins"


class Origin(Spec):
    """Where a training's results were taken from.

    `name` is that of the file or folder, `digest` the bundle's or the storage's id, `taken_ms` when it was taken over.
    """

    layout: int
    kind: str
    name: str
    digest: str
    taken_ms: int
    attempts: list[str]
    """What it is about: where none of them is left, the training was made here since."""

    @property
    def words(self) -> str:
        """What is said beside a row: `bundle study.zip`."""
        return f"{self.kind} {self.name}"


def path_of(key: str) -> str:
    """Where a training's origin is."""
    return f"{FOLDER}/{key}.json"


def read(files: Files, key: str) -> Origin | None:
    """Where a training came from; None of one that was trained here, and where that cannot be read."""
    with contextlib.suppress(ValueError):
        found = Origin.model_validate(read_json(files.read(path_of(key))))
        return found if set(found.attempts) & set(attempts_of(files, key)) else None
    return None


def origins_of(files: Files, keys: Collection[str]) -> dict[str, Origin]:
    """The origins of trainings; those that were trained here are absent."""
    there = {name.removesuffix(".json") for name in files.list(FOLDER)} if keys else set()
    found = {key: read(files, key) for key in keys if key in there}
    return {key: origin for key, origin in found.items() if origin is not None}


def write_first(files: Files, key: str, origin: Origin) -> None:
    """Write a training's origin where there is none; the first stands.

    Raises:
        StorageError: Storage cannot be written.
    """
    if read(files, key) is None:
        files.write(path_of(key), origin.model_dump_json(indent=1).encode())
