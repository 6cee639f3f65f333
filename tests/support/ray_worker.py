"""Ray workers forked from a process that has PyTorch loaded, which saves seconds of a core for each.

A node is told to start this file in place of Ray's own worker (`worker_path`). It has one forked that runs Ray's own
worker with the same arguments, environment, working directory and output, and waits for its end. Neither Ray nor
ablate is loaded before the fork: a worker takes both from where it is told to.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from pathlib import Path

from tests.support import preloaded
from tests.support.forks import Fork

LOADED = (*preloaded.TRAINING, *preloaded.RAY)
SOCKET_VARIABLE = "TESTS_RAY_WORKER_SOCKET"


def work(*arguments: str) -> None:
    """What Ray's own worker does."""
    ray = importlib.util.find_spec("ray")
    assert ray is not None and ray.origin is not None
    script = Path(ray.origin).parent / "_private" / "workers" / "default_worker.py"
    sys.path.insert(0, str(script.parent))
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    path = os.environ[SOCKET_VARIABLE]
    Fork(path, "tests.support.ray_worker:work", sys.argv[1:], os.environ, Path.cwd(), [0, 1, 2]).wait()
