"""What every test shares: one torch thread, the cluster marker by folder, and who runs beside whom under xdist."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# An MLflow server starts seven job consumers, of which no test needs one and each takes seconds of a core.
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cluster" in Path(item.fspath).parts:
            item.add_marker(pytest.mark.cluster)
        # With `-n 2 --dist loadgroup`: one process has the shared cluster, and a module's fixtures are made once.
        fixtures = getattr(item, "fixturenames", ())
        group = "ray cluster" if "ray_cluster" in fixtures else Path(item.fspath).name
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
