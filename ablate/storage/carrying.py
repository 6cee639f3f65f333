"""A training as it travels: what of its files goes into a bundle, or into another storage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ablate.core.errors import StorageError
from ablate.core.redaction import redact
from ablate.storage.attempts import attempts_of, read_manifest, seal_manifest
from ablate.storage.checksums import sha256
from ablate.storage.storage import Storage


def stored_training(storage: Storage, key: str, *, checkpoints: bool) -> Iterator[tuple[str, bytes]]:
    """What there is of a training, every attempt with its newest history and all of its records.

    Args:
        storage: Where.
        key: The training's.
        checkpoints: With the networks.

    Yields:
        Path in a storage, and content; an attempt's manifest last.

    Raises:
        StorageError: Something is damaged.
    """
    described = storage.files.read(f"{key}/training.json")
    if described is not None:
        yield f"{key}/training.json", described
    storage.history(key)  # a damaged one is mended where that can be
    for attempt in attempts_of(storage.files, key):
        manifest = read_manifest(storage.files, key, attempt)
        if manifest is None:
            continue
        kept: dict[str, Any] = {
            **manifest,
            "checkpoints": manifest["checkpoints"][-1:] if checkpoints else [],
            "histories": manifest["histories"][-1:],
        }
        kept.pop("log", None)  # it tells of the machine, and no number depends on it
        if kept["failure"] is not None:
            kept["failure"] = {**kept["failure"], "details": ""}
        files = [*kept["histories"], *kept["records"].values()]
        files += [(name, total) for _, name, total in kept["checkpoints"]]
        if not files and kept["failure"] is None and kept.get("stopped") is None:
            continue
        base = f"{key}/attempts/{attempt}"
        for name, total in sorted(map(tuple, files)):
            content = storage.files.read(f"{base}/{name}")
            if content is None or sha256(content) != total:
                where = redact(f"{storage.location}/{base}/{name}")
                raise StorageError(f"expected a whole file, got a damaged {where}; the same launch again makes it")
            yield f"{base}/{name}", content
        yield f"{base}/manifest-{kept['sequence']:06d}.json", seal_manifest(kept)
