"""Launches in processes of their own, forked from one that has PyTorch loaded: loading it takes longer than they do.

They are what a shell would start but for that: a session, a working directory, an environment and output of their own,
to be killed and waited for. Some tests still start theirs as a user does.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

# Neither Ray nor MLflow: they read the environment when they are loaded, and start threads.
LOADED = (
    "torch._dynamo",
    "torchvision",
    "sklearn.datasets",
    "pandas",
    "matplotlib",
    "ablate.launch.session",
    "ablate.execution.executors",
)


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
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(LOADED))
        os.environ["OMP_NUM_THREADS"] = "1"  # read when PyTorch is loaded
        # A process that asks for more threads shares the cores with other tests: waiting, they must not keep one busy.
        os.environ["OMP_WAIT_POLICY"] = "passive"
        # A daemon: a test that fails leaves it behind, and the test run's end must not wait for it.
        self._process = context.Process(
            target=_run, args=(module, arguments, folder, dict(environment), out), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, or none while it runs."""
        return self._process.exitcode

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end.

        Returns:
            Its exit code, or minus the signal that killed it.

        Raises:
            TimeoutError: It still runs.
        """
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self.pid} still runs after {timeout_s} s")
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill_group(self) -> None:
        """kill -9 it, with everything it started."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()


def _run(module: str, arguments: tuple[str, ...], folder: Path, environment: dict[str, str], out: Path | None) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has background jobs ignore it, and these tests
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(out or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as of a fresh process
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    sys.path[:0] = [str(folder), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [module, *arguments]
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # may have children
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
