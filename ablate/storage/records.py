"""One measurement as a file: numbers and arrays, never pickled objects."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ablate.core.errors import StorageError

LAYOUT = 1
"""Of records; a newer one than this is refused by name."""


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
        """The record in an `.npz` file; nothing in it is unpickled."""
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            head = json.loads(file["head"].tobytes())
            if head["layout"] != LAYOUT:
                raise StorageError(
                    f"record {head.get('key')}: expected storage layout {LAYOUT}, got {head['layout']}; "
                    "use the version that wrote it"
                )
            arrays = {name.removeprefix("array/"): file[name] for name in file.files if name != "head"}
        return Record(head["key"], head["scalars"], arrays, head["meta"])
