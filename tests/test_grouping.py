"""What runs beside what: see tests/conftest.py; and what the cluster that many share starts its nodes with."""

from __future__ import annotations

import os

import pytest

from tests.conftest import ON_THE_CLUSTER
from tests.support.ray_cluster import RayCluster


def test_who_needs_the_cluster_is_in_its_files(request: pytest.FixtureRequest) -> None:
    needing = {item.path.name for item in request.session.items if "ray_cluster" in getattr(item, "fixturenames", ())}
    assert needing <= set(ON_THE_CLUSTER)


def test_nodes_start_with_the_clusters_settings_whatever_a_test_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else no worker of a cluster that starts again finds its modules, and whoever waits for one waits for ever."""
    seen: list[str | None] = []

    class Nodes:
        address = "127.0.0.1:1"

        def __init__(self, **how: object) -> None:
            self.add_node()

        def add_node(self, **how: object) -> None:
            seen.append(os.environ.get("PYTHONPATH"))

        def shutdown(self) -> None:
            pass

    monkeypatch.setattr("ray.cluster_utils.Cluster", Nodes)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    cluster = RayCluster({"PYTHONPATH": "here"})
    cluster.shutdown()
    cluster.start()
    cluster.add_node()
    cluster.shutdown()
    assert seen == ["here"] * 5 and "PYTHONPATH" not in os.environ
