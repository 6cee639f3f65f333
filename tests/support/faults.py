"""What launches under test import (`--import faults`, copied beside their space): it holds them at a named point.

While `hold-<point>` lies beside this file, every process that comes to the point says so with `at-<point>-<pid>` and
waits. So a test kills a process where it means to, however fast or slow the machine is. The points: training,
checkpointing, committing, measuring. Tests never import this themselves: it changes what it is loaded beside.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ablate.execution import worker
from ablate.learning import training
from ablate.storage import files, leases
from ablate.storage.storage import Storage

HERE = Path(__file__).resolve().parent


def at(point: str) -> None:
    hold = HERE / f"hold-{point}"
    if hold.exists():
        (HERE / f"at-{point}-{os.getpid()}").touch()
    while hold.exists():
        time.sleep(0.01)


class Counted:
    """A function that comes to a point at its n-th call."""

    def __init__(self, function: Any, point: str, call: int) -> None:
        self.function, self.point, self.call = function, point, call

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.call -= 1
        if self.call == 0:
            at(self.point)
        return self.function(*arguments, **named)


write = files.LocalFiles.write


def held(self: files.LocalFiles, path: str, content: bytes) -> None:
    name = path.rpartition("/")[2]
    if name.startswith("checkpoint-000002-") and (HERE / "hold-checkpointing").exists():
        half = (self.root / path).parent / ".tmp-half"
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(content[: len(content) // 2])
        at("checkpointing")
        half.unlink()
    if name.startswith("manifest-") and rb"\"epoch\": 3," in content:
        at("committing")  # the checkpoint is whole, nobody has been told yet
    write(self, path, content)


death = worker.death


def begun(storage: Storage, key: str) -> str | None:
    """Leave a mark of each training that begins: its key, the process, when."""
    (HERE / f"begun-{key}-{os.getpid()}-{time.monotonic_ns()}").touch()
    return death(storage, key)


worker.death = begun  # type: ignore[attr-defined]  # what a worker asks first: how the one before ended
files.LocalFiles.write = held  # type: ignore[method-assign]
training.ascend = Counted(training.ascend, "training", 8)  # type: ignore[assignment]  # in the second epoch of digits
worker.evaluate = Counted(worker.evaluate, "measuring", 2)  # type: ignore[attr-defined]

# A dead launch's leases expire after 3 s here instead of 20.
leases.HEARTBEAT_S, leases.EXPIRY_S = 0.3, 3.0
