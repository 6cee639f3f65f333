"""One training in several places: what they have measured of the same network comes together, another's stays out."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ablate.storage.attempts import Attempt, read_manifest
from ablate.storage.bundles import ABOUT, BundleFiles, write_bundle
from ablate.storage.checksums import sha256
from ablate.storage.export import stored_training
from ablate.storage.files import Files, LocalFiles
from ablate.storage.layers import LayeredFiles
from ablate.storage.records import Record
from ablate.storage.storage import Storage
from tests.support.stored import KEY, content, history

NAMES = ["ab" * 10, "cd" * 10, "ef" * 10]


def record(name: str, right: int = 5, seconds: float = 1.0) -> Record:
    correct = np.arange(8) < right
    return Record(name, {"accuracy": 100 * correct.mean()}, {"correct": correct}, {"what": "fgsm", "seconds": seconds})


def train(folder: Path, loss: float = 1.0) -> Storage:
    """A training to its end."""
    storage = Storage(str(folder))
    curves = [{**entry, "metrics": {"train/loss": loss / (1 + entry["epoch"])}} for entry in history(2)]
    storage.attempt(KEY).save_checkpoint(2, f"network {loss}".encode(), curves, finished=True)
    return storage


def copy(storage: Storage, folder: Path, records: Sequence[Record] = ()) -> Storage:
    """A storage that goes on measuring where another one was, each record in the attempt that trained."""
    shutil.copytree(storage.location, folder)
    copied = Storage(str(folder))
    measure(copied, records)
    return copied


def measure(storage: Storage, records: Sequence[Record]) -> None:
    [name] = storage.files.list(f"{KEY}/attempts")
    attempt = Attempt(storage.files, KEY, name, read_manifest(storage.files, KEY, name))
    for each in records:
        attempt.save_record(each)


def packed(storage: Storage, path: Path, beside: Path | None = None) -> BundleFiles:
    others = {} if beside is None else {beside.name: sha256(beside.read_bytes())}
    about = {"layout": 1, "reader": "0.2.0", "elsewhere": {"bundles": others}}
    stored = [(f"storage/{name}", text) for name, text in stored_training(storage, KEY, checkpoints=False)]
    write_bundle(path, [(ABOUT, json.dumps(about).encode()), *stored])
    return BundleFiles(path)


def seen(*places: Files) -> dict[str, float]:
    """Record -> its accuracy, as layers show a training."""
    storage = Storage.of(LayeredFiles(*places))
    view = storage.view(KEY)
    assert view.finished and view.attempts
    return {name: found.scalars["accuracy"] for name in view.records if (found := storage.record(view, name))}


@pytest.fixture
def copies(tmp_path: Path) -> list[Files]:
    """The same attempt in three places, measured this far in each: one record, two others, none."""
    first = train(tmp_path / "first")
    second = copy(first, tmp_path / "second", [record(NAMES[1]), record(NAMES[2])])
    third = copy(first, tmp_path / "third")
    measure(first, [record(NAMES[0])])
    return [first.files, second.files, third.files]


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_records_of_one_attempt_come_together_in_whatever_order(copies: list[Files], order: tuple[int, ...]) -> None:
    assert seen(*(copies[number] for number in order)) == dict.fromkeys(NAMES, 62.5)


def test_a_bundle_and_the_one_beside_it_are_layers_too(copies: list[Files], tmp_path: Path) -> None:
    first, second = (Storage.of(files) for files in copies[:2])
    packed(second, tmp_path / "b.zip")
    files = packed(first, tmp_path / "a.zip", tmp_path / "b.zip")
    assert seen(files) == dict.fromkeys(NAMES, 62.5)
    alone = [BundleFiles(tmp_path / name, alone=True) for name in ("a.zip", "b.zip")]
    assert seen(*alone) == seen(*alone[::-1]) == dict.fromkeys(NAMES, 62.5)


def test_a_network_that_one_place_lacks_is_that_of_the_other(copies: list[Files]) -> None:
    Storage.of(copies[0]).prune(KEY)
    for places in (copies[:2], copies[1::-1]):
        storage = Storage.of(LayeredFiles(*places))
        assert storage.checkpoint(KEY) == (b"network 1.0", []) and len(storage.history(KEY)) == 3


@pytest.mark.parametrize("named_alike", [False, True])
def test_records_of_another_network_stay_out(copies: list[Files], tmp_path: Path, named_alike: bool) -> None:
    other = train(tmp_path / "other", loss=2.0)
    if named_alike:  # a training's own bits decide, not how its attempt is called
        [name], [its] = (files.list(f"{KEY}/attempts") for files in (copies[0], other.files))
        (tmp_path / "other" / KEY / "attempts" / its).rename(tmp_path / "other" / KEY / "attempts" / name)
    measure(other, [record(NAMES[2], right=1)])
    assert seen(copies[0], other.files) == {NAMES[0]: 62.5}
    assert seen(other.files, copies[0]) == {NAMES[2]: 12.5}
    assert seen(copies[0], other.files, copies[1]) == dict.fromkeys(NAMES, 62.5)
    assert not list(LayeredFiles(copies[0], other.files, copies[1]).conflicts(KEY))


def test_a_training_made_again_with_the_same_numbers_is_the_same_network(copies: list[Files], tmp_path: Path) -> None:
    again = train(tmp_path / "again")
    measure(again, [record(NAMES[2])])
    assert seen(copies[0], again.files) == {NAMES[0]: 62.5, NAMES[2]: 62.5}


def test_what_is_measured_since_is_seen_and_nothing_is_written(copies: list[Files], tmp_path: Path) -> None:
    layers = LayeredFiles(copies[2], copies[1])
    assert len(Storage.of(layers).view(KEY).records) == 2
    before = content(Storage.of(copies[1]))
    measure(Storage.of(copies[2]), [record(NAMES[0])])
    assert len(Storage.of(layers).view(KEY).records) == 3 and content(Storage.of(copies[1])) == before


def test_two_places_that_differ_in_a_number_are_named(copies: list[Files], tmp_path: Path) -> None:
    measure(Storage.of(copies[2]), [record(NAMES[0], seconds=9.0)])  # measured twice, and the same came of it
    assert not list(LayeredFiles(*copies).conflicts(KEY))
    measure(Storage.of(copies[1]), [record(NAMES[0], right=4)])
    for places in (copies, copies[::-1]):
        [told] = LayeredFiles(*places).conflicts(KEY)
        assert NAMES[0] in told and "fgsm" in told and f"{tmp_path}/second has other numbers" in told
    files = packed(Storage.of(copies[0]), tmp_path / "a.zip")
    packed(Storage.of(copies[1]), tmp_path / "b.zip")
    assert not list(files.conflicts(KEY))
    [told] = packed(Storage.of(copies[0]), tmp_path / "a.zip", tmp_path / "b.zip").conflicts(KEY)
    assert "a.zip" in told and "b.zip" in told


def test_a_place_whose_own_record_is_damaged_leaves_it_to_the_others(copies: list[Files]) -> None:
    first = copies[0]
    assert isinstance(first, LocalFiles)
    measure(Storage.of(copies[1]), [record(NAMES[0])])
    [path] = (first.root / KEY).rglob(f"record-{NAMES[0]}*")
    path.unlink()
    assert seen(first, copies[1]) == dict.fromkeys(NAMES, 62.5)
