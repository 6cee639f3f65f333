"""Launches in processes of their own, forked from one that has PyTorch loaded: loading it takes longer than they do.

They are what a shell would start but for that: a session, a working directory, an environment and output of their own,
to be killed and waited for. Some tests still start theirs as a user does.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import runpy
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support import no_work, preloaded
from tests.support.forks import Fork, ForkServer

LOADED = (*preloaded.LIBRARIES, "ablate.launch.session", "ablate.execution.executors")
SOCKET_VARIABLE = "TESTS_LAUNCH_SOCKET"
"""Where the processes of a test run find their server."""


class Process:
    """A running module, with what tests use of `subprocess.Popen`.

    Args:
        module: Run as by `python -m`.
        arguments: Of its command line.
        folder: Its working directory.
        environment: Its whole environment.
        out: Where its output goes; nowhere by default.
    """

    def __init__(
        self, module: str, arguments: tuple[str, ...], folder: Path, environment: Mapping[str, str], out: Path | None
    ) -> None:
        server = os.environ.get(SOCKET_VARIABLE) or start_server().path
        with Path(os.devnull).open("rb") as nothing, (out or Path(os.devnull)).open("ab") as file:
            descriptors = [nothing.fileno(), file.fileno(), file.fileno()]
            called = [str(folder), module, *arguments]
            self._process = Fork(server, "tests.support.launches:run", called, environment, folder, descriptors)
        # A test that fails leaves it behind.
        atexit.register(self._leave)

    def _leave(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, or none while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end.

        Returns:
            Its exit code, or minus the signal that killed it.

        Raises:
            TimeoutError: It still runs.
        """
        return self._process.wait(timeout_s)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill_group(self) -> None:
        """kill -9 it, with everything it started."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()


@functools.cache
def start_server() -> ForkServer:
    """The server of this process and of those that it starts."""
    root = str(Path(__file__).resolve().parents[2])
    # Read when PyTorch is loaded. A process that asks for more threads shares the cores with other tests: waiting, they
    # must not keep one busy.
    server = ForkServer(*LOADED, PYTHONPATH=root, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    atexit.register(server.close)
    return server


def run(folder: str, module: str, *arguments: str) -> None:
    """What a forked process does: `python -m module arguments`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has background jobs ignore it, and these tests
    sys.path.insert(0, folder)
    no_work.install_where_asked(module)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_script(path: str, *arguments: str) -> None:
    """What a forked process does: `python path arguments`."""
    sys.path.insert(0, str(Path(path).resolve().parent))
    no_work.install_where_asked()
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")
