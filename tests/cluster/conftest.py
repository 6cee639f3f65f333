"""One Ray cluster for all cluster tests: a head for drivers and jobs alone, and a node for trainings to be killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import ON_THE_CLUSTER
from tests.support.ray_cluster import RayCluster, started


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with started(tmp_path_factory.mktemp("token") / "token", forked=True) as cluster:
        yield cluster


@pytest.fixture
def ray_cluster(request: pytest.FixtureRequest) -> Iterator[RayCluster]:
    """The cluster of this process; one whose head a test has killed is another one afterwards."""
    expected = f"expected {request.path.name} among the files of tests/conftest.py that share one cluster"
    assert request.path.name in ON_THE_CLUSTER, expected
    cluster: RayCluster = request.getfixturevalue("running")
    if not cluster.folders:
        cluster.start()
    yield cluster
    if cluster.headless:
        cluster.shutdown()


@pytest.fixture
def on_cluster(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    """Launches of this test run on the shared cluster."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    return ray_cluster
