"""When an attempt began and when it was last alive: what a killed one has used after its last checkpoint.

<storage>/<training_key>/attempts/<attempt>/alive.json
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, Field

from ablate.core.errors import StorageError
from ablate.core.text import now_ms
from ablate.storage.checksums import read_json
from ablate.storage.files import Files

BEAT_S = 10.0
"""Between two signs of life: so much of a killed attempt's time stays unknown at most."""


class RanOn(BaseModel):
    """What an attempt has for itself, as records tell it."""

    device: str = "cpu"
    threads: int = Field(1, gt=0)
    gpu_share: float = Field(1.0, gt=0.0, le=1.0)
    trainings_per_process: int = Field(1, gt=0)


class Life(BaseModel):
    """What an attempt has said of itself: when it began and when it was last alive, in ms since 1970, and on what."""

    began_ms: int
    alive_ms: int
    on: RanOn


class Heartbeat:
    """Says of an attempt that it is alive, as long as the block runs; a thread of its own beats beside long work.

    Args:
        files: The storage's.
        path: Of the attempt's `alive.json`.
        on: What `RanOn` holds, and what else there is.
        may: Whether it may write still; not once another launch has taken its training over.
        beat_s: Between two beats; `BEAT_S` by default.
    """

    def __init__(
        self,
        files: Files,
        path: str,
        on: Mapping[str, Any],
        may: Callable[[], bool] = lambda: True,
        beat_s: float | None = None,
    ) -> None:
        self._files, self._path, self._on, self._may = files, path, dict(on), may
        self._beat_s = BEAT_S if beat_s is None else beat_s
        self._began_ms = now_ms()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="attempt-alive", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._beat()

    def _beat_on(self) -> None:
        while not self._stop.wait(self._beat_s):
            self._beat()

    def _beat(self) -> None:
        content = {"began_ms": self._began_ms, "alive_ms": now_ms(), "on": self._on}
        with contextlib.suppress(StorageError):  # no number depends on it, and the training itself tells
            if self._may():
                self._files.write(self._path, json.dumps(content).encode())


def life(files: Files, path: str) -> Life | None:
    """What an attempt has said of itself; None where it is of an earlier version, or cannot be read."""
    try:
        return Life.model_validate(read_json(files.read(path)))
    except ValueError:
        return None
