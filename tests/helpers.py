"""Small real trainings that tests share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPACE = """\
title: A tiny space
base: {{model.width: 0.25, training.batch_size: 64, training.crop_padding: 1, training.attack.steps: 1,
       training.epochs: {epochs}, data.name: digits, data.image_size: 8,
       measurement.attacks: [natural, gn, fgsm, pgd20]}}
rows:
  - {{label: small, set: {{training.learning_rate: 0.05}}, published: {{natural: 70.5, pgd20: 40.25}}}}
  - {{label: large, set: {{}}}}
  - {{label: large again, set: {{measurement.lowpass_degree: 6}}}}
"""


def write_space(folder: Path, name: str = "tiny", epochs: int = 2, **changes: str) -> Path:
    """A space of three rows and two trainings, each a second or two long."""
    text = SPACE.format(epochs=epochs)
    for old, new in changes.items():
        text = text.replace(old, new)
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def command(*arguments: str) -> list[str]:
    """A launch as a user starts it."""
    return [sys.executable, "-m", "ablate.launch", *arguments]


def environment(**more: str) -> dict[str, str]:
    """The environment of such a launch: one thread, this checkout."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TERM": "dumb", **more}


def run_launch(folder: Path, *arguments: str, expect: int = 0, timeout_s: float = 240) -> str:
    """Run a launch to its end, check its exit code, and return everything it printed."""
    done = subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout_s
    )
    output = done.stdout + done.stderr
    assert done.returncode == expect, f"exit code {done.returncode}:\n{output}"
    return output


def until(condition: Callable[[], Any], timeout_s: float = 120.0, what: str = "the event") -> Any:
    """Wait for an event; the limit only ends a test that would hang."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come within {timeout_s} s")


def kill_group(process: subprocess.Popen[Any]) -> None:
    """kill -9 a launch with everything it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def numbers(storage: Path | str) -> dict[str, Any]:
    """Every number in a storage that does not depend on when it was made, by key."""
    from ablate.storage import Storage

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
