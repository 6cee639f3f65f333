"""A training as it travels: what of its files goes into a bundle, or into another storage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ablate.core.digest import digest
from ablate.core.errors import StorageError
from ablate.core.redaction import redact
from ablate.core.text import plural
from ablate.storage.attempts import manifests_of, seal_manifest
from ablate.storage.checksums import read_json, sha256
from ablate.storage.records import Record
from ablate.storage.status import TrainingView
from ablate.storage.storage import Storage

NOBODY = -1
"""In `broken_by` of a column made of others: no part broke the image."""

_ROUNDING = 1e-9
"""Of an accuracy, relative."""


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
    for attempt, manifest in manifests_of(storage.files, key):
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


def faults(storage: Storage, key: str) -> Iterator[str]:
    """Where what is stored of a training contradicts itself, whoever wrote it and with whatever checksums.

    Yields:
        A line for each.
    """
    described = storage.files.read(f"{key}/training.json")
    if described is not None:
        try:
            made = digest(read_json(described))
        except (ValueError, TypeError) as error:
            made = f"that cannot be made ({error})"
        if made != key:
            yield f"training {key}: what it is said to stand for has the key {made}"
    view = storage.view(key)
    for name in sorted(view.records):
        record = storage.stored_record(view, name)
        if record is None:
            yield f"record {name}: its manifest has another checksum than it"
        elif record.key != name:
            yield f"record {name}: it is of measurement {record.key}"
        else:
            if storage.outdated(record):
                yield f"record {name}: it is of examples of another network of {record.meta['made_on']} than is here"
            yield from (
                f"record {name}: {told}" for told in (*_miscounted(record), *_beside_parts(storage, view, record))
            )


def _miscounted(record: Record) -> Iterator[str]:
    stated, correct = record.scalars.get("accuracy"), record.correct
    if correct is None or stated is None:
        return
    if correct.dtype != np.bool_ or correct.ndim != 1 or not correct.size:
        yield f"expected a verdict for each image, got {correct.dtype} of shape {list(correct.shape)}"
    elif not isinstance(stated, (int, float)):
        yield f"expected an accuracy, got {stated!r}"
    elif not math.isclose(stated, 100.0 * float(correct.mean()), rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        yield f"it states {stated:.6g} %, its images give {100.0 * float(correct.mean()):.6g} %"
    elif record.meta.get("images", correct.size) != correct.size:
        yield f"it is said to be of {record.meta['images']} images, and has verdicts of {correct.size}"


def _beside_parts(storage: Storage, view: TrainingView, record: Record) -> Iterator[str]:
    """Where a column made of others contradicts them: those that were measured before it were not tried again."""
    correct, broken_by = record.correct, record.arrays.get("broken_by")
    made_of, attacked = record.meta.get("made_of"), record.meta.get("attacked")
    if correct is None or broken_by is None or not isinstance(made_of, dict) or not isinstance(attacked, dict):
        return
    if not np.array_equal(correct, broken_by == NOBODY):
        yield "its verdicts are not those of the attacks that are said to break its images"
        return
    for number, name in enumerate(attacked):
        part = storage.stored_record(view, made_of.get(name, "")) if attacked[name] is None else None
        if part is None or part.correct is None or len(part.correct) < len(correct):
            continue
        right = part.correct[: len(correct)]
        differ = int(np.count_nonzero((correct & ~right) | ((broken_by == number) & right)))
        if differ:
            yield f"of {plural(differ, 'image')} it says another thing than the record of its part {name}"
