"""A small Ray cluster of real processes on this machine, and launches that are held and killed on it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from tests.support import ray_worker
from tests.support.forks import ForkServer
from tests.support.helpers import environment, start_launch, until

HEALTH = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""A dead node is noticed in seconds instead of a minute."""


class RayCluster:
    """A head without CPUs and one node with two, on this machine, with token authentication.

    Args:
        settings: Environment variables of its processes, whatever a test has set by the time that some start.
        forked: Workers are forked from a process that has PyTorch loaded, which saves seconds of a core for each.
    """

    def __init__(self, settings: Mapping[str, str], forked: bool = False) -> None:
        self.settings = settings
        self.options: dict[str, Any] = {"include_log_monitor": False}  # it prints at drivers what workers print
        if forked:
            self.options["worker_path"] = ray_worker.__file__
        self.start()

    def start(self) -> None:
        """Start it, each node with a session folder of its own: nodes of one folder delete each other's packages."""
        from ray.cluster_utils import Cluster

        self.folders = [tempfile.mkdtemp(prefix="ray-")]  # in /tmp for a short path
        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": 0}
        head |= {"dashboard_agent_listen_port": 0}  # others' Ray may be on this machine too
        head |= {"temp_dir": self.folders[0], "no_monitor": True}  # nobody asks what an autoscaler would do
        with _set(self.settings):
            self.cluster = Cluster(initialize_head=True, head_node_args=head | self.options)
        # A job's driver looks there which of the machine's clusters it belongs to; `ray start` would write it.
        (Path(self.folders[0]) / "ray_current_cluster").write_text(self.address)
        self.nodes: list[Any] = []
        self.headless = False
        self.add_node()

    def kill_head(self) -> None:
        """SIGKILL every process of the head; what is left is to be shut down soon, or Ray ends this process."""
        for processes in self.cluster.head_node.all_processes.values():
            for each in processes:
                each.process.kill()
        self.headless = True

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    @property
    def job_server(self) -> str:
        return f"http://{self.cluster.head_node.webui_url}"

    def add_node(self) -> Any:
        """A node with two CPUs."""
        self.folders.append(tempfile.mkdtemp(prefix="ray-"))
        with _set(self.settings):
            self.nodes.append(self.cluster.add_node(num_cpus=2, temp_dir=self.folders[-1], **self.options))
        return self.nodes[-1]

    def lose_node(self, node: Any) -> None:
        """SIGKILL every process of a node; put another one in its place first."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    @staticmethod
    def raylet_of(node: Any) -> int:
        """The process id of a node's raylet, which is the parent of its workers."""
        return int(node.all_processes["raylet"][0].process.pid)

    def shutdown(self) -> None:
        """End what runs of it."""
        if self.folders:
            self.cluster.shutdown()
        while self.folders:
            shutil.rmtree(self.folders.pop(), ignore_errors=True)


@contextmanager
def started(token: Path, forked: bool = False) -> Iterator[RayCluster]:
    """A cluster with token authentication, while the block runs.

    Args:
        token: Where its token is written.
        forked: As of `RayCluster`.
    """
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef" * 4)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    settings = {
        **HEALTH,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": environment()["PYTHONPATH"],  # nodes have ablate installed
        "PATH": path,  # a job's `python` is this one
    }
    with ExitStack() as stack:
        stack.callback(_read_settings_again)
        stack.enter_context(_set(settings))
        _read_settings_again()
        if forked:
            server = stack.enter_context(closing(ForkServer(*ray_worker.LOADED)))
            settings[ray_worker.SOCKET_VARIABLE] = server.path
        cluster = RayCluster(settings, forked)
        stack.callback(cluster.shutdown)
        yield cluster


@contextmanager
def _set(settings: Mapping[str, str]) -> Iterator[None]:
    """Environment variables, while the block runs."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _read_settings_again() -> None:
    """Ray keeps the environment of its import, and other tests may have imported it."""
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


class Launch:
    """A launch in a process of its own, held and killed where a test wants it (see tests/support/faults.py)."""

    def __init__(self, folder: Path, *arguments: str, hold: Iterable[str] = ()) -> None:
        self.folder = folder
        self.out = folder / "out.txt"
        shutil.copy(Path(__file__).parent / "faults.py", folder / "faults.py")
        for point in hold:
            (folder / f"hold-{point}").touch()
        self.process = start_launch(folder, *arguments, "--cpus-per-trial", "1", "--import", "faults", out=self.out)

    def text(self) -> str:
        return self.out.read_text()

    def ends_with(self, code: int, timeout_s: float = 240) -> str:
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
