"""What contradicts itself in a stored training is told: its key, its records' keys, their accuracies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.attacks import ensemble
from ablate.core.digest import digest
from ablate.storage.attempts import seal_manifest
from ablate.storage.export import NOBODY, faults
from ablate.storage.records import Record
from ablate.storage.status import network_digest
from ablate.storage.storage import Storage
from tests.support.stored import MEASUREMENT, history

IDENTITY = {"seed": 3, "model": {"arch": "resnet20"}}
TRAINING = digest(IDENTITY)
RIGHT = np.arange(300) < 100


def told(folder: Path, record: Record, identity: dict[str, Any] = IDENTITY) -> list[str]:
    """What is told of a training with one record, which is stored under the name of `MEASUREMENT`."""
    storage = Storage(str(folder / "storage"))
    storage.describe(TRAINING, identity)
    attempt = storage.attempt(TRAINING)
    attempt.save_checkpoint(1, b"checkpoint", history(1), finished=True)
    attempt.save_record(Record(MEASUREMENT, record.scalars, record.arrays, record.meta))
    if record.key != MEASUREMENT:
        attempt.save_record(record)
        manifest = sorted((folder / "storage" / TRAINING / "attempts" / attempt.name).glob("manifest-*"))[-1]
        body = json.loads(json.loads(manifest.read_text())["body"])
        body["records"] = {MEASUREMENT: body["records"][record.key]}
        manifest.write_bytes(seal_manifest(body))
    return list(faults(storage, TRAINING))


def measured(accuracy: Any, correct: np.ndarray[Any, Any] | None = RIGHT, key: str = MEASUREMENT) -> Record:
    return Record(key, {"accuracy": accuracy}, {} if correct is None else {"correct": correct})


@pytest.mark.parametrize("record", [measured(100.0 / 3), measured(41.0, None), Record(MEASUREMENT, {"share": 0.25})])
def test_nothing_is_told_of_what_agrees(tmp_path: Path, record: Record) -> None:
    assert told(tmp_path, record) == []


@pytest.mark.parametrize("accuracy", [33.33, 33.34, 33.3333334, 1 / 3, 0.0, float("nan")])
def test_an_accuracy_that_is_not_that_of_its_images_is_told(tmp_path: Path, accuracy: float) -> None:
    [line] = told(tmp_path, measured(accuracy))
    assert line.startswith(f"record {MEASUREMENT}: it states ") and line.endswith("its images give 33.3333 %")


@pytest.mark.parametrize(
    "correct", [RIGHT.astype(np.int64), RIGHT.astype(np.float32), RIGHT.reshape(3, 100), RIGHT[:0]]
)
def test_verdicts_of_another_form_are_told(tmp_path: Path, correct: np.ndarray[Any, Any]) -> None:
    [line] = told(tmp_path, measured(100.0 / 3, correct))
    assert "expected a verdict for each image" in line


def test_a_record_of_another_measurement_is_told(tmp_path: Path) -> None:
    [line] = told(tmp_path, measured(100.0 / 3, key="ef" * 10))
    assert line == f"record {MEASUREMENT}: it is of measurement {'ef' * 10}"


def test_a_training_of_another_key_is_told(tmp_path: Path) -> None:
    [line] = told(tmp_path, measured(100.0 / 3), {**IDENTITY, "seed": 4})
    assert line.startswith(f"training {TRAINING}: what it is said to stand for has the key ")


@pytest.mark.parametrize(("digest_of", "told_of"), [(history(1), 0), (history(2), 1), (None, 0)])
def test_examples_of_another_network_than_is_here_are_told(tmp_path: Path, digest_of: Any, told_of: int) -> None:
    source = Storage(str(tmp_path / "storage")).attempt("ef" * 10)
    source.save_checkpoint(1, b"checkpoint", history(1), finished=True)
    found = measured(100.0 / 3)
    found.meta["made_on"] = "ef" * 10
    if digest_of is not None:
        found.meta["made_on_digest"] = network_digest(digest_of)
    lines = told(tmp_path, found)
    assert len(lines) == told_of and all("of another network of " + "ef" * 10 in line for line in lines)


WITHSTOOD = np.array([True, True, False, False])
PARTS = {"natural": "a1" * 10, "fgsm": "b2" * 10}


def made_of_others(folder: Path, broken_by: list[int], **changes: Any) -> list[str]:
    """What is told of a column made of two that were measured before it: one breaks an image, the other another."""
    storage = Storage(str(folder / "storage"))
    attempt = storage.attempt(TRAINING)
    for broken, part in enumerate(PARTS.values()):
        attempt.save_record(measured(75.0, np.arange(4) != 2 + broken, part))
    arrays = {"correct": WITHSTOOD, "broken_by": np.array(broken_by, np.int8)}
    meta = {"images": 4, "made_of": PARTS, "attacked": dict.fromkeys(PARTS), **changes}
    return told(folder, Record(MEASUREMENT, {"accuracy": 50.0}, arrays, meta))


def test_a_column_made_of_others_that_agrees_with_them_is_not_told(tmp_path: Path) -> None:
    assert NOBODY == ensemble.NOBODY
    assert made_of_others(tmp_path, [NOBODY, NOBODY, 0, 1]) == []


@pytest.mark.parametrize(
    ("broken_by", "changes", "expected"),
    [
        ([NOBODY, NOBODY, 0, NOBODY], {}, "are not those of the attacks that are said to break its images"),
        ([NOBODY, NOBODY, 1, 1], {}, "of 1 image it says another thing than the record of its part fgsm"),
        ([NOBODY, NOBODY, 0, 1], {"images": 5}, "said to be of 5 images, and has verdicts of 4"),
    ],
)
def test_a_column_edited_beside_its_parts_is_told(
    tmp_path: Path, broken_by: list[int], changes: dict[str, Any], expected: str
) -> None:
    [line] = made_of_others(tmp_path, broken_by, **changes)
    assert expected in line


def test_a_part_that_was_tried_again_there_may_differ(tmp_path: Path) -> None:
    assert made_of_others(tmp_path, [NOBODY, NOBODY, 1, 1], attacked={"natural": None, "fgsm": 3}) == []
