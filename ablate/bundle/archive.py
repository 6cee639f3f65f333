"""`make`: a plan's part of a storage as one file, and what it states of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate import __version__
from ablate.bundle import crate
from ablate.bundle.selection import public
from ablate.bundle.statement import results_in, statement_of
from ablate.core.errors import StorageError
from ablate.storage import origins, replications
from ablate.storage.bundles import ABOUT, FOLDER, LAYOUT, READER, BundleFiles, write_bundle
from ablate.storage.export import stored_training
from ablate.storage.layers import LayeredFiles
from ablate.storage.plans import PlanFile
from ablate.storage.registrations import path_of, read_all
from ablate.storage.storage import Storage


@dataclass
class Made:
    """What came of it.

    Attributes:
        bytes: Of the file.
        trainings: That it holds.
        elsewhere: Training -> name of the bundle that holds it.
        unfinished: Rows and seeds without all of their records.
    """

    bytes: int
    trainings: int
    elsewhere: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)


def make(
    out: Path,
    plan: PlanFile,
    storage: Storage,
    *,
    checkpoints: bool = False,
    without: Sequence[Path] = (),
) -> Made:
    """Write a bundle.

    Args:
        out: The file; replaced where it is there.
        plan: Of tables, as storage has it.
        storage: Where its trainings are.
        checkpoints: Whether the networks travel along.
        without: Bundles beside it: what they hold whole is left out, and looked for there.

    Raises:
        StorageError: Something of it is damaged, or cannot be written.
    """
    plan = public(plan)
    others = {path.name: BundleFiles(path, alone=True) for path in without}
    elsewhere = _elsewhere(plan, others)
    files = LayeredFiles(storage.files, *others.values())
    for told in (told for key in plan.trainings() for told in files.conflicts(key)):
        raise StorageError(f"--without: expected the same numbers in every place, got others: {told}")
    results = results_in(plan, Storage.of(files))
    sizes: dict[str, int] = {}

    def contents() -> Iterator[tuple[str, bytes]]:
        needs = {name: others[name].bundle.digest() for name in sorted(set(elsewhere.values()))}
        about: dict[str, Any] = {
            "layout": LAYOUT,
            "reader": READER,
            "made_by": {"ablate": __version__},
            "plan": plan.id,
            "checkpoints": checkpoints,
            "elsewhere": {"trainings": dict(sorted(elsewhere.items())), "bundles": needs},
        }
        yield ABOUT, _json(about)
        for name, content in _stored(plan, storage, elsewhere, checkpoints):
            yield f"{FOLDER}/{name}", content
        for each in results:
            yield f"results/{each.space.name}.json", _json(statement_of(each))

    def counted() -> Iterator[tuple[str, bytes]]:
        for name, content in contents():
            sizes[name] = len(content)
            yield name, content
        yield crate.METADATA, crate.metadata(plan, sizes, sorted(set(elsewhere.values())))

    size = write_bundle(out, counted())
    held = plan.trainings().keys() & {name.split("/")[1] for name in sizes if name.startswith(f"{FOLDER}/")}
    unfinished = [f"{t.part.row}, seed {t.part.seed}" for r in results for t in r.trials.values() if t.problem]
    return Made(size, len(held), elsewhere, unfinished)


def _elsewhere(plan: PlanFile, others: Mapping[str, BundleFiles]) -> dict[str, str]:
    """Training -> the bundle that holds it with everything this plan measures of it."""
    found: dict[str, str] = {}
    for key, trials in plan.trainings().items():
        needed = {name for trial in trials for name in trial.measurements}
        for name, files in others.items():
            view = Storage.of(files).view(key)
            if view.finished and needed <= view.records.keys():
                found.setdefault(key, name)
    return found


def _stored(
    plan: PlanFile, storage: Storage, elsewhere: Mapping[str, str], checkpoints: bool
) -> Iterator[tuple[str, bytes]]:
    """Path in a storage -> content, of all that belongs to a plan."""
    yield f"plans/{plan.id}.json", plan.to_json().encode()
    names = {space.name for space in plan.spaces}
    for each in read_all(storage.files)[0]:
        if each.space in names:
            yield path_of(each.digest), storage.files.read(path_of(each.digest)) or b""
    for identity in storage.identities():
        yield f"identity/{identity}", b"ablate"
    held = sorted(plan.trainings().keys() - elsewhere.keys())
    for key, origin in origins.origins_of(storage.files, held).items():
        yield origins.path_of(key), origin.model_dump_json(indent=1).encode()
    for key in held:
        yield from stored_training(storage, key, checkpoints=checkpoints)
    for name in replications.names(storage):
        inner = replications.storage_of(storage, name)
        again = sorted(set(inner.keys()) & set(held))
        if again:
            folder = f"{replications.FOLDER}/{name}"
            yield f"{folder}/request.json", storage.files.read(f"{folder}/request.json") or b"{}"
        for key in again:
            for path, content in stored_training(inner, key, checkpoints=False):
                yield f"{folder}/{path}", content


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode()
