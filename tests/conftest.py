"""What every test shares: one torch thread, the cluster marker by folder, and who runs beside whom under xdist."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is there: threads that wait must not spin. With two processes on two cores, spinning ones kept the
# others from what they waited for, and a test of 17 s took 145.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import hypothesis
import pytest
import torch

if TYPE_CHECKING:
    from tests.support.tracking_world import Tracker

# An MLflow server starts seven job consumers, of which no test needs one and each takes seconds of a core.
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")

# No test depends on the machine's speed: hypothesis by itself fails an example that takes longer than 0.2 s.
hypothesis.settings.register_profile("ablate", deadline=None)
hypothesis.settings.load_profile("ablate")

# Temporary files in memory, where there is room: storage and databases wait for the disk after each write.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# The files whose tests share one Ray cluster.
ON_THE_CLUSTER = (
    "test_executors.py",
    "test_faults.py",
    "test_search.py",
    "test_submitting.py",
    "test_without_a_head.py",
)


# Where the tests that take longest are: they begin first, or one process would end with them while the other has none.
LONGEST = ("cluster", "tracking")


def pytest_configure(config: pytest.Config) -> None:
    """Under xdist its processes share one server that launches are forked from; it loads while they collect tests."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        from tests.support.launches import SOCKET_VARIABLE, start_server

        os.environ[SOCKET_VARIABLE] = start_server().path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not any(folder in Path(item.fspath).parts for folder in LONGEST))
    for item in items:
        if "cluster" in Path(item.fspath).parts:
            item.add_marker(pytest.mark.cluster)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under xdist: a file's tests stay in one process, which makes its fixtures once; so do those of the Ray cluster
    and those of bundles.

    xdist's own `loadgroup` would read markers, but its way of passing them on is lost on pytest 9.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if "/cluster/" in file and Path(file).name in ON_THE_CLUSTER:
                return "the Ray cluster"
            return "the bundle" if "tests/bundle/" in file else file

    config.option.loadscopereorder = False  # by the number of tests: what takes longest has few, and would come last
    return ByFile(config, log)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty tracking database to be copied: making one takes seconds."""
    from tests.support.tracking_world import make_template

    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def at(template: Path) -> Callable[[Path], Tracker]:
    """A folder -> a tracker of the database in it, which is copied there first."""
    from tests.support.tracking_world import tracker_at

    return tracker_at(template)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
