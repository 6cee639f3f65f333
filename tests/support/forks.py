"""Processes forked from one that has slow libraries loaded: loading them takes longer than what a test does with them.

Unlike `multiprocessing`'s server this one may be asked by any process that knows its socket: a test run shares one.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


class ForkServer:
    """A process that loads modules, and forks others that have them.

    Args:
        modules: What it loads.
        environment: What is different in its own: `PYTHONPATH`, empty else, where it finds what is not installed. A
            fork's is what it is asked for with.
    """

    def __init__(self, *modules: str, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fork-")  # in /tmp: a socket's path is short
        self.path = f"{self._folder.name}/socket"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(16)
        own = {**os.environ, "PYTHONPATH": "", **environment}
        with listener:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno()), *modules],
                stdin=subprocess.PIPE, env=own, pass_fds=[listener.fileno()], start_new_session=True,
            )  # fmt: skip

    def close(self) -> None:
        """End it; its forks go on, and nobody hears of their ends."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


class Fork:
    """A process that a `ForkServer` has forked, in a session of its own.

    Args:
        path: Of the server's socket.
        function: What it runs, as module:name.
        arguments: Of the function.
        environment: The whole of it.
        folder: Its working directory.
        descriptors: Its standard input, output and error.
    """

    def __init__(
        self,
        path: str,
        function: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        descriptors: Sequence[int],
    ) -> None:
        asked = {"function": function, "arguments": [*arguments], "environment": {**environment}, "folder": str(folder)}
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(path)
        socket.send_fds(self._connection, [b"x"], descriptors)
        self._connection.sendall(json.dumps(asked).encode())
        self._connection.shutdown(socket.SHUT_WR)
        self._answers = self._connection.makefile("rb")
        self.pid = int(self._answers.readline())
        self._code: int | None = None

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end.

        Returns:
            Its exit code, or minus the signal that ended it.

        Raises:
            TimeoutError: It still runs.
        """
        if self._code is None:
            if not select.select([self._connection], [], [], timeout_s)[0]:
                raise TimeoutError(f"process {self.pid} still runs after {timeout_s} s")
            self._code = int(self._answers.readline() or -signal.SIGKILL)  # a server that is gone took it along
            self._answers.close()
            self._connection.close()
        return self._code

    def poll(self) -> int | None:
        """Its exit code, or none while it runs."""
        with contextlib.suppress(TimeoutError):
            return self.wait(0)
        return None


def serve(descriptor: int, modules: Sequence[str]) -> None:
    """Fork for each that asks, and tell it of the end, until the test run is gone."""
    del sys.path[0]  # the folder of this file, which no fork needs
    listener = socket.socket(fileno=descriptor)
    for module in modules:
        importlib.import_module(module)
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    asking: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener, sys.stdin, ended], [], [])
        if sys.stdin in ready:
            return
        if ended in ready:
            os.read(ended, 4096)
            for pid, status in _ended():
                with asking.pop(pid) as connection, contextlib.suppress(OSError):
                    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        if listener in ready:
            connection, _ = listener.accept()
            pid = os.fork()
            if pid == 0:
                for each in (listener, *asking.values()):
                    each.close()
                for each in (ended, wake):
                    os.close(each)
                _work(connection)
            asking[pid] = connection


def _ended() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found


def _work(connection: socket.socket) -> None:
    """Be what is asked for, and end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    _, descriptors, *_ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as file:
        asked = json.load(file)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if "PYTHONFAULTHANDLER" in os.environ:  # which Python itself reads when it starts
        faulthandler.enable()
    connection.sendall(b"%d\n" % os.getpid())
    connection.close()
    code = _run(asked["function"], asked["arguments"])
    threading._shutdown()  # type: ignore[attr-defined]  # as at an interpreter's end
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _run(function: str, arguments: Sequence[str]) -> int:
    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)(*arguments)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2:])
