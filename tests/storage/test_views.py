"""What of several attempts counts: the latest that tells of it, the furthest checkpoint, and no file from elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ablate.storage.attempts import Attempt, parse_manifest, seal_manifest
from ablate.storage.records import Record
from ablate.storage.storage import Storage
from tests.support.stored import KEY, MEASUREMENT, history, trained

OTHER = "ef" * 10


@pytest.fixture
def storage(tmp_path: Any) -> Storage:
    return Storage(str(tmp_path / "storage"))


def recorded(attempt: Attempt, value: float, key: str = MEASUREMENT) -> None:
    attempt.save_record(Record(key, {"accuracy": value}))


def accuracy(storage: Storage, key: str = MEASUREMENT) -> float | None:
    record = storage.record(storage.view(KEY), key)
    return None if record is None else record.scalars["accuracy"]


def test_a_record_has_the_arrays_that_were_put_into_it_and_no_other() -> None:
    record = Record(MEASUREMENT, {"accuracy": 50.0}, {"correct": np.array([True, False])})
    assert Record.from_bytes(record.to_bytes()).arrays.keys() == {"correct"}


@pytest.mark.parametrize("earlier", ["0002", "9999"])
def test_attempts_count_in_the_order_of_their_numbers(storage: Storage, earlier: str) -> None:
    """Also from 10,000 on, which come before 9,999 in the alphabet."""
    first = Attempt(storage.files, KEY, f"{earlier}-ffffffff")
    second = Attempt(storage.files, KEY, f"{int(earlier) + 1:04d}-00000000")
    for attempt, value in ((second, 2.0), (first, 1.0)):  # whichever wrote first
        attempt.save_checkpoint(1, b"checkpoint", history(1))
        recorded(attempt, value)
    first.save_failure("out of memory", "", 1)
    assert accuracy(storage) == 2.0 and storage.view(KEY).failure is None


def test_what_a_training_keeps_is_what_its_furthest_checkpoint_keeps(storage: Storage) -> None:
    def keeping(epoch: int, *keeps: str) -> Attempt:
        attempt = storage.attempt(KEY)
        attempt.save_checkpoint(epoch, b"checkpoint %d" % epoch, history(epoch), keeps=keeps)
        return attempt

    keeping(2, "ema:0.9@0")
    assert storage.view(KEY).keeps == ("ema:0.9@0",)
    keeping(1)  # a worker that came late
    assert storage.view(KEY).keeps == ("ema:0.9@0",)
    keeping(2, "epoch:2")
    assert storage.view(KEY).keeps == ("epoch:2",)
    keeping(3).forget_checkpoints()  # nothing can be measured of it any more
    assert storage.view(KEY).keeps == ("epoch:2",)


def test_each_record_of_an_attempt_is_kept_beside_the_others(storage: Storage) -> None:
    attempt = trained(storage, 1)
    recorded(attempt, 1.0)
    recorded(attempt, 2.0, OTHER)
    trained(storage, 1)
    assert (accuracy(storage), accuracy(storage, OTHER)) == (1.0, 2.0)


@pytest.mark.parametrize("records", [0, 1])
def test_nothing_of_another_network_counts_once_a_training_was_made_anew(storage: Storage, records: int) -> None:
    first = trained(storage, 3, finished=True)
    recorded(first, 1.0)
    recorded(first, 1.0, OTHER)
    storage.prune(KEY)
    again = storage.attempt(KEY)
    curve = [{**entry, "metrics": {"train/loss": 9.0}} for entry in history(3)]
    again.save_checkpoint(2, b"checkpoint 2", curve[:3])
    assert accuracy(storage) == 1.0 and storage.history(KEY) == history(3)  # the whole one's, until there is another
    again.save_checkpoint(3, b"checkpoint 3", curve, finished=True, anew=True)
    for _ in range(records):
        recorded(again, 2.0)
    again.save_log("later manifests say so too", last=True)
    assert (accuracy(storage), accuracy(storage, OTHER)) == (2.0 if records else None, None)
    assert storage.history(KEY) == curve and storage.view(KEY).finished
    recorded(trained(storage, 3), 3.0, OTHER)  # what follows is measured on its network
    assert accuracy(storage, OTHER) == 3.0


WHOLE: dict[str, Any] = {
    "layout": 1,
    "sequence": 1,
    "epoch": 1,
    "finished": False,
    "checkpoints": [[1, "checkpoint-000001-ab.pt", "ab"]],
    "histories": [["history-000001-ab.json", "ab"]],
    "records": {MEASUREMENT: ["record-ab.npz", "ab"]},
    "failure": None,
}


@pytest.mark.parametrize("name", ["../0001-aaaaaaaa/record.npz", "/etc/passwd", "..", "a/b.npz", ".hidden", ""])
def test_a_manifest_that_names_a_file_elsewhere_is_none(name: str) -> None:
    assert parse_manifest(seal_manifest(WHOLE), "here") == WHOLE
    for change in (
        {"checkpoints": [[1, name, "ab"]]},
        {"histories": [[name, "ab"]]},
        {"records": {MEASUREMENT: [name, "ab"]}},
    ):
        assert parse_manifest(seal_manifest({**WHOLE, **change}), "here") is None


@pytest.mark.parametrize("field", sorted(WHOLE.keys() - {"layout"}))
@pytest.mark.parametrize("value", ["gone", "x", {"a": "b"}, [1]], ids=["gone", "text", "object", "list"])
def test_a_manifest_without_a_field_or_with_another_kind_of_it_is_none(field: str, value: Any) -> None:
    changed = {name: each for name, each in WHOLE.items() if name != field}
    if value != "gone":
        changed[field] = value
    fits = field == "failure" and value == {"a": "b"}
    assert (parse_manifest(seal_manifest(changed), "here") is not None) == fits
