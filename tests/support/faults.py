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

from ablate.execution import base, worker
from ablate.learning import training
from ablate.storage import files, leases

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


write_beside = files.LocalFiles._write_beside


def held(self: files.LocalFiles, target: Path, content: bytes) -> Path:
    if target.name.startswith("checkpoint-000002-") and (HERE / "hold-checkpointing").exists():
        half = target.parent / ".tmp-half"
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(content[: len(content) // 2])
        at("checkpointing")
        half.unlink()
    if target.name.startswith("manifest-") and rb"\"epoch\": 3," in content:
        at("committing")  # the checkpoint is whole, nobody has been told yet
    return write_beside(self, target, content)


begin = worker._Run.run


def begun(self: worker._Run) -> base.Outcome:
    """Leave a mark of each training that begins: its key, the process, when."""
    (HERE / f"begun-{self.task.key}-{os.getpid()}-{time.monotonic_ns()}").touch()
    return begin(self)


worker._Run.run = begun  # type: ignore[method-assign]
files.LocalFiles._write_beside = held  # type: ignore[method-assign]
training.ascend = Counted(training.ascend, "training", 30)  # type: ignore[assignment]  # in the second epoch of digits
worker.evaluate = Counted(worker.evaluate, "measuring", 2)  # type: ignore[assignment]

# A dead launch's claims expire after 3 s here instead of 20.
leases.Claims.__init__.__defaults__ = (time.monotonic, 0.3, 3.0)  # type: ignore[misc]
