"""A record's bytes: arrays and numbers, never pickled objects."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from ablate.core.errors import StorageError
from ablate.storage.records import Record

MEASUREMENT = "cd" * 10


def test_a_record_survives_the_round_trip_without_pickle() -> None:
    record = Record(
        MEASUREMENT,
        {"accuracy/pgd20": 42.89, "odd": float("inf")},
        {
            "correct": np.array([True, False, True]),
            "cka/matrix": np.eye(3, dtype=np.float32),
            "names": np.array(["conv1", "fc"]),
            "empty": np.zeros((0, 2), dtype=np.int64),
            "head": np.array(1),
        },
        {"attack": "PGD(eps=8)", "seconds": 1.5, "nested": {"a": [1, None]}},
    )
    again = Record.from_bytes(record.to_bytes())
    assert (again.key, again.scalars, again.meta) == (record.key, record.scalars, record.meta)
    assert again.arrays.keys() == record.arrays.keys()
    for name, value in record.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], value)
        assert again.arrays[name].dtype == value.dtype
    assert again.correct is not None
    assert again.correct.dtype == np.bool_


def test_objects_are_refused_in_and_out() -> None:
    objects = np.array([{"a": 1}], dtype=object)
    with pytest.raises(TypeError, match="expected arrays of numbers or text, got 'x' of object"):
        Record(MEASUREMENT, {}, {"x": objects}).to_bytes()
    stream = io.BytesIO(Record(MEASUREMENT, {}).to_bytes())
    pickled = io.BytesIO()
    np.save(pickled, objects, allow_pickle=True)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("array/x.npy", pickled.getvalue())
    with pytest.raises(StorageError, match=r"expected an array of numbers, got 'array/x\.npy' of object"):
        Record.from_bytes(stream.getvalue())
