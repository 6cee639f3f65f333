"""One measurement as a file: numbers and arrays, never pickled objects."""

from __future__ import annotations

import io
import json
import math
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ablate.core.errors import StorageError
from ablate.storage.checksums import BROKEN_ZIP

LAYOUT = 1
"""Of records; a newer one than this is refused by name."""

MOST_BYTES = 2**30
"""Of all arrays of a record: a bundle of strangers may hold a bomb."""

_LAST_BITS = 1e-6

_read_header_2 = np.lib.format.read_array_header_2_0


@dataclass(frozen=True)
class Record:
    """One measurement: its numbers, per-image correctness and arrays.

    Args:
        key: The measurement's key.
        scalars: Metric -> value.
        arrays: Name -> array; per-image correctness is the boolean array `correct`.
        meta: What was measured, how, where, and how long it took.
    """

    key: str
    scalars: dict[str, float]
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def correct(self) -> np.ndarray[Any, Any] | None:
        """[N] bool, which test images were classified correctly."""
        return self.arrays.get("correct")

    def to_bytes(self) -> bytes:
        """The record as one `.npz` file."""
        for name, value in self.arrays.items():
            if value.dtype.hasobject:  # NumPy would pickle it, and nobody could read it
                raise TypeError(f"expected arrays of numbers or text, got {name!r} of {value.dtype}")
        head = json.dumps({"layout": LAYOUT, "key": self.key, "scalars": self.scalars, "meta": self.meta})
        stream = io.BytesIO()
        packed = {f"array/{name}": value for name, value in self.arrays.items()}
        np.savez_compressed(stream, head=np.frombuffer(head.encode(), np.uint8), **packed)  # type: ignore[arg-type]
        return stream.getvalue()

    @staticmethod
    def from_bytes(content: bytes) -> Record:
        """The record in an `.npz` file; nothing in it is unpickled.

        Raises:
            StorageError: Another layout, or arrays that nobody should load.
        """
        found = arrays_in(content)
        try:
            head = json.loads(found["head"].tobytes())
            layout, key = head["layout"], head["key"]
            scalars, meta = dict(head["scalars"]), dict(head["meta"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StorageError(f"expected a record, got none that can be read ({type(error).__name__})") from error
        if layout != LAYOUT:
            raise StorageError(
                f"record {key}: expected storage layout {LAYOUT}, got {layout}; use the version that wrote it"
            )
        arrays = {name.removeprefix("array/"): array for name, array in found.items() if name != "head"}
        return Record(key, scalars, arrays, meta)


def same_numbers(one: Record, other: Record) -> bool:
    """Whether two records say the same in numbers, wherever each was made; sums may differ in their last bits."""
    if one.scalars.keys() != other.scalars.keys() or one.arrays.keys() != other.arrays.keys():
        return False
    pairs = [(np.asarray(one.scalars[name]), np.asarray(other.scalars[name])) for name in one.scalars]
    pairs += [(one.arrays[name], other.arrays[name]) for name in one.arrays]
    return all(
        a.shape == b.shape
        and (
            np.allclose(a, b, rtol=_LAST_BITS, atol=_LAST_BITS, equal_nan=True)
            if a.dtype.kind == b.dtype.kind == "f"
            else np.array_equal(a, b)
        )
        for a, b in pairs
    )


def arrays_in(content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an `.npz` file, whoever wrote it; nothing in it is unpickled.

    Raises:
        StorageError: It is none, holds objects, or more than it may.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            sizes = sum(info.file_size for info in file.infolist())
            if sizes > MOST_BYTES:
                raise StorageError(f"expected arrays of at most {MOST_BYTES:,} bytes, got {sizes:,}: a zip bomb")
            for info in file.infolist():
                with file.open(info) as stream:  # what NumPy would make room for, by what it is told
                    version = np.lib.format.read_magic(stream)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else _read_header_2
                    shape, _, dtype = read(stream)
                    size = math.prod(shape) * dtype.itemsize
                    if dtype.hasobject or size > info.file_size:
                        raise StorageError(f"expected an array of numbers, got {info.filename!r} of {dtype}, {shape}")
        with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, *BROKEN_ZIP) as error:
        raise StorageError(f"expected arrays, got none that can be read ({type(error).__name__}: {error})") from error
