"""A trial's per-image correctness and arrays as one artifact of its run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate.storage.records import Record

MEASUREMENTS = "measurements.npz"
"""The artifact's name."""

_CORRECT, _COUNT, _ARRAY = "correct/", "count/", "array/"


def pack(records: Mapping[str, Record]) -> bytes:
    """A trial's per-image correctness and arrays as one `.npz` file.

    Args:
        records: Metric or analysis -> record.

    Returns:
        Correctness as packed bits with its count, other arrays as they are.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, record in records.items():
        for array, value in record.arrays.items():
            if array == "correct" and value.dtype == np.bool_:
                arrays[f"{_CORRECT}{name}"] = np.packbits(value)
                arrays[f"{_COUNT}{name}"] = np.asarray(len(value))
            else:
                arrays[f"{_ARRAY}{name}/{array}"] = value
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def unpack(content: bytes) -> tuple[dict[str, NDArray[np.bool_]], dict[str, NDArray[Any]]]:
    """What `pack` packed; nothing in it is unpickled.

    Returns:
        Metric -> [N] bool, and `<metric or analysis>/<array>` -> array.
    """
    correct: dict[str, NDArray[np.bool_]] = {}
    arrays: dict[str, NDArray[Any]] = {}
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        for name in file.files:
            if name.startswith(_CORRECT):
                metric = name.removeprefix(_CORRECT)
                count = int(file[f"{_COUNT}{metric}"])
                correct[metric] = np.unpackbits(file[name], count=count).astype(np.bool_)
            elif name.startswith(_ARRAY):
                arrays[name.removeprefix(_ARRAY)] = file[name]
    return correct, arrays
