"""Small real trainings that tests share."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ablate.launch.options import Options
from ablate.launch.request import Request
from ablate.launch.session import launch
from ablate.planning.plan import Plan
from tests.support.launches import Process

BATCH = 256
"""Of the tiny space: its epochs are six steps, and cost what steps cost more than what images do."""

SPACE = """\
title: A tiny space
base: {{model.width: 0.25, model.depth: 8, training.batch_size: {batch}, training.crop_padding: 1,
       training.attack.steps: 1, training.epochs: {epochs}, data.name: digits, data.image_size: 8,
       measurement.attacks: [{attacks}]}}
rows:
  - {{label: small, set: {{training.learning_rate: 0.05}}, published: {{natural: 70.5, pgd20: 40.25}}}}
  - {{label: large, set: {{}}}}
  - {{label: large again, set: {{measurement.lowpass_degree: 6}}}}
"""


def write_space(
    folder: Path, name: str = "tiny", epochs: int = 2, attacks: str = "natural, gn, fgsm, pgd20", **changes: str
) -> Path:
    """A space of three rows and two trainings, each a second or two long; with pgd20 half of that is its own."""
    text = SPACE.format(epochs=epochs, attacks=attacks, batch=BATCH)
    for old, new in changes.items():
        text = text.replace(old, new)
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def options_of(folder: Path, name: str = "tiny", **changes: Any) -> Options:
    """A launch of a space in a folder, in this process and on one core, without MLflow."""
    given: dict[str, Any] = {"space": [str(folder / f"{name}.yaml")], "storage": str(folder / "storage")}
    return Options(**{**given, "tracking": False, "local": True, "cpus_per_trial": 1, **changes})


def launch_here(asked: Options) -> tuple[int, str]:
    """Launch in this process; its exit code, and everything it printed."""
    out = Console(file=io.StringIO(), width=150)
    code = launch(Request.read(asked), out)
    return code, out.file.getvalue()  # type: ignore[attr-defined]


def plan_of(asked: Options) -> Plan:
    """The plan of a launch, before storage is asked about trainings."""
    return Request.read(asked).plan()


def command(*arguments: str) -> list[str]:
    """A launch as a user starts it."""
    return [sys.executable, "-m", "ablate.launch", *arguments]


def environment(**more: str) -> dict[str, str]:
    """The environment of such a launch: one thread, this checkout."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    # A process that a signal ends says where it was.
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TERM": "dumb", "PYTHONFAULTHANDLER": "1", **more}


def start_launch(
    folder: Path, *arguments: str, out: Path | None = None, env: Mapping[str, str] | None = None
) -> Process:
    """Start a launch in a folder, its output appended to a file."""
    return Process("ablate.launch", arguments, folder, env or environment(), out)


def run_module(module: str, folder: Path, *arguments: str, expect: int = 0, timeout_s: float = 240) -> str:
    """Run a module to its end, check its exit code, and return everything it printed."""
    with tempfile.TemporaryDirectory() as outside:
        out = Path(outside) / "out.txt"
        code = Process(module, arguments, folder, environment(), out).wait(timeout_s)
        output = out.read_text()
    assert code == expect, f"exit code {code}:\n{output}"
    return output


def run_launch(folder: Path, *arguments: str, expect: int = 0) -> str:
    """Run a launch to its end, check its exit code, and return everything it printed."""
    return run_module("ablate.launch", folder, *arguments, expect=expect)


def until(condition: Callable[[], Any], timeout_s: float = 240.0, what: str = "the event") -> Any:
    """Wait for an event; the limit only ends a test that would hang."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come within {timeout_s} s")


def numbers(storage: Path | str) -> dict[str, Any]:
    """Every number in a storage that does not depend on when it was made, by key."""
    from ablate.storage.storage import Storage

    found: dict[str, Any] = {}
    opened = Storage(str(storage))
    for key in list(opened.keys()):
        view = opened.view(key)
        timing = ("seconds", "images_per_second")
        found[f"{key}/history"] = [
            {name: value for name, value in entry["metrics"].items() if name not in timing}
            for entry in opened.history(key)
        ]
        for measurement in view.records:
            record = opened.record(view, measurement)
            assert record is not None
            found[f"{key}/{measurement}"] = (
                json.dumps(record.scalars, sort_keys=True),
                {name: array.tobytes() for name, array in record.arrays.items()},
            )
    return found
