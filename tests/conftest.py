"""What every test shares: one torch thread, and the cluster marker by folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# An MLflow server starts seven job consumers, of which no test needs one and each takes seconds of a core.
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cluster" in Path(item.fspath).parts:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
