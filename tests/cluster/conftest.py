"""One Ray cluster for all cluster tests: a head that schedules nothing but drivers, and nodes that tests may kill."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

# A dead node is noticed in seconds instead of a minute; set before any Ray process starts.
os.environ.setdefault("RAY_health_check_period_ms", "500")
os.environ.setdefault("RAY_health_check_timeout_ms", "2000")
os.environ.setdefault("RAY_health_check_failure_threshold", "3")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def on_cluster(ray_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Launches of this test run on the shared cluster."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    return ray_cluster
