"""The job server that tests submit to."""

from __future__ import annotations

import pytest

from ablate.execution import jobs
from tests.support.job_server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(jobs, "connect", lambda address: server)
    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    return server
