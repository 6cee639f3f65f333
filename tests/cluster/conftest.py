"""One Ray cluster for all cluster tests: a head for drivers and jobs alone, and a node for trainings to be killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import command, environment, until

# A dead node is noticed in seconds instead of a minute; set before any Ray process starts.
os.environ.setdefault("RAY_health_check_period_ms", "500")
os.environ.setdefault("RAY_health_check_timeout_ms", "2000")
os.environ.setdefault("RAY_health_check_failure_threshold", "3")


class RayCluster:
    """A head without CPUs and one node with two, on this machine, with token authentication."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": 0}
        self.folders: list[str] = []
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.node = self.add_node()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    @property
    def job_server(self) -> str:
        return f"http://{self.cluster.head_node.webui_url}"

    def add_node(self) -> Any:
        """A node with two CPUs, and a session folder of its own: nodes of one folder delete each other's packages."""
        self.folders.append(tempfile.mkdtemp(prefix="ray-"))  # in /tmp: a socket's path is short
        return self.cluster.add_node(num_cpus=2, temp_dir=self.folders[-1])

    def lose_node(self) -> None:
        """SIGKILL every process of the node; another one with as many CPUs must be there."""
        self.cluster.remove_node(self.node, allow_graceful=False)

    def shutdown(self) -> None:
        self.cluster.shutdown()
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    token = tmp_path_factory.mktemp("token") / "token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef" * 4)
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])  # nodes have ablate installed
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    patch.setenv("PATH", path)  # a job's `python` is this one
    _read_settings_again()
    cluster = RayCluster()
    try:
        yield cluster
    finally:
        cluster.shutdown()
        patch.undo()
        _read_settings_again()


def _read_settings_again() -> None:
    """Ray keeps the environment of its import, and other tests may have imported it."""
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@pytest.fixture
def on_cluster(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    """Launches of this test run on the shared cluster."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    return ray_cluster


class Launch:
    """A launch in a process of its own, held and killed where a test wants it (see tests/faults.py)."""

    def __init__(self, folder: Path, *arguments: str, hold: Iterable[str] = ()) -> None:
        self.folder = folder
        self.out = folder / "out.txt"
        shutil.copy(Path(__file__).parent.parent / "faults.py", folder / "faults.py")
        for point in hold:
            (folder / f"hold-{point}").touch()
        self.process = subprocess.Popen(
            command(*arguments, "--cpus-per-trial", "1", "--import", "faults"),
            cwd=folder,
            env=environment(),
            start_new_session=True,
            stdout=self.out.open("wb"),
            stderr=subprocess.STDOUT,
        )

    def text(self) -> str:
        return self.out.read_text()

    def ends_with(self, code: int, timeout_s: float = 120) -> str:
        """Wait for the launch's end, check its exit code, and return what it printed."""
        assert self.process.wait(timeout_s) == code, self.text()
        return self.text()

    def release(self, point: str) -> None:
        (self.folder / f"hold-{point}").unlink()

    def at(self, point: str, count: int) -> list[int]:
        """Process ids, once so many processes have come to a point."""

        def there() -> list[int]:
            found = [int(path.name.rsplit("-", 1)[1]) for path in self.folder.glob(f"at-{point}-*")]
            assert self.process.poll() is None, self.text()
            return found if len(found) >= count else []

        return list(until(there, what=f"{count} processes at {point!r}"))
