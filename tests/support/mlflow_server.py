"""A real MLflow server, started and killed by tests."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

from tests.support.forks import Fork, ForkServer
from tests.support.helpers import environment, until

# Uvicorn first: MLflow's application guards itself where it finds it loaded.
LOADED = ("uvicorn.protocols.http.auto", "uvicorn.loops.auto", "uvicorn.lifespan.on", "mlflow.server.fastapi_app")


class Server:
    """An MLflow server in a folder, which serves artifacts too.

    Args:
        folder: With its database and its artifacts.
        command: By `mlflow server`, as a user starts it; else the same application is forked from a process that has
            MLflow loaded, which saves seconds of a core at each start.
    """

    def __init__(self, folder: Path, command: bool = False) -> None:
        self.folder, self.command = folder, command
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | Fork | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        # Without seven more processes, for language models.
        told = environment(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
        told.pop("MLFLOW_TRACKING_URI", None)
        store, artifacts = f"sqlite:///{self.folder}/server.db", str(self.folder / "served")
        if self.command:
            command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
            command += ["--backend-store-uri", store, "--workers", "1", "--artifacts-destination", artifacts]
            nowhere = subprocess.DEVNULL
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=told, start_new_session=True, stdout=nowhere, stderr=nowhere
            )
        else:
            function, asked = "tests.support.mlflow_server:serve", (str(self.port), store, artifacts)
            with Path(os.devnull).open("r+b") as file:
                self.process = Fork(_loaded().path, function, asked, told, self.folder, [file.fileno()] * 3)
        until(self.answers, what="the MLflow server")

    def answers(self) -> bool:
        """Whether it does now."""
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """Kill it with everything it started, if it runs."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@functools.cache
def _loaded() -> ForkServer:
    server = ForkServer(*LOADED)
    atexit.register(server.close)
    return server


def serve(port: str, store: str, artifacts: str) -> None:
    """What `mlflow server` starts, in this process."""
    import uvicorn
    from mlflow.server import constants

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = store
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = artifacts
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    from mlflow.server.fastapi_app import app

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error")
