"""Processes forked from one that has slow libraries loaded: loading them takes longer than what a test does with them.

Unlike `multiprocessing`'s server this one may be asked by any process that knows its socket.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path


class ForkServer:
    """A process that loads modules, and forks others that have them.

    Args:
        modules: What it loads. Not ours: a fork takes those from where its own `PYTHONPATH` says.
    """

    def __init__(self, *modules: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fork-")  # in /tmp: a socket's path is short
        self.path = f"{self._folder.name}/socket"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(16)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with listener:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno()), *modules],
                stdin=subprocess.PIPE, env=environment, pass_fds=[listener.fileno()], start_new_session=True,
            )  # fmt: skip

    def close(self) -> None:
        """End it; its forks go on."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


class Fork:
    """A process that a `ForkServer` has forked, in a process group of its own.

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
        self.pid = int(self._connection.recv(16))

    def wait(self) -> None:
        """Wait for its end."""
        with self._connection:
            self._connection.recv(1)


def serve(descriptor: int, modules: Sequence[str]) -> None:
    """Fork for each that asks, until the test run is gone."""
    del sys.path[0]  # the folder of this file, which no fork needs
    listener = socket.socket(fileno=descriptor)
    for module in modules:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _work(connection)
        connection.close()


def _work(connection: socket.socket) -> None:
    """Be what is asked for. The connection stays open until this process ends, which tells who asked."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
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
    connection.sendall(str(os.getpid()).encode())
    try:
        module, _, name = asked["function"].partition(":")
        getattr(importlib.import_module(module), name)(*asked["arguments"])
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2:])
