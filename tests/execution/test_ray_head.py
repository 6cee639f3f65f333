"""A head that is gone is told once and ends what runs; one that is away for a moment is not noticed."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from typing import NoReturn

import pytest
import requests
from ray.job_submission import JobDetails, JobStatus, JobType
from rich.console import Console

from ablate.execution import jobs, ray_head
from ablate.execution.ray_head import HeadLost, watching


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_head, "LOOK_S", 0.02)
    monkeypatch.setattr(ray_head, "PATIENCE_S", 0.2)


def listening(port: int = 0) -> tuple[socket.socket, str]:
    server = socket.create_server(("127.0.0.1", port), backlog=1000)
    return server, f"127.0.0.1:{server.getsockname()[1]}"


def test_a_head_that_goes_away_ends_the_block_and_is_told_once() -> None:
    server, address = listening()
    told: list[str] = []
    with pytest.raises(HeadLost), watching(address, told.append):
        server.close()
        threading.Event().wait(60)
    assert len(told) == 1
    assert address in told[0]
    assert "the same command goes on" in told[0]


def test_it_is_asked_again_where_a_library_swallows_it() -> None:
    server, address = listening()
    with pytest.raises(HeadLost), watching(address, lambda text: None):
        server.close()
        with contextlib.suppress(HeadLost):
            threading.Event().wait(60)
        threading.Event().wait(60)


def test_a_main_thread_that_waits_in_foreign_code_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    server, address = listening()
    left, codes = threading.Event(), []

    def leave(code: int) -> None:
        codes.append(code)
        left.set()

    monkeypatch.setattr(ray_head, "LEAVE_S", 0.1)
    monkeypatch.setattr(ray_head, "leave", leave)
    monkeypatch.setattr(ray_head.signal, "pthread_kill", lambda thread, number: None)  # as if nobody heard it
    with watching(address, lambda text: None):
        server.close()
        assert left.wait(60)
    assert codes[0] == 130


def test_a_short_break_is_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[bool] = []
    three, answers = threading.Event(), iter([True, False, False])

    def answering(address: str) -> bool:
        looks.append(next(answers, True))
        if len(looks) > 6:
            three.set()
        return looks[-1]

    monkeypatch.setattr(ray_head, "answers", answering)
    monkeypatch.setattr(ray_head, "PATIENCE_S", 60.0)
    with watching("127.0.0.1:1", lambda text: pytest.fail(text)):
        assert three.wait(60)


def test_rays_own_error_of_it_becomes_the_same_line() -> None:
    server, address = listening()
    told: list[str] = []
    with pytest.raises(HeadLost), watching(address, told.append):
        server.close()
        raise RuntimeError("rpc_client.h:193: Failed to connect to GCS")
    assert len(told) == 1


def test_an_error_of_something_else_stays_one() -> None:
    server, address = listening()
    with server, pytest.raises(ValueError, match="mine"), watching(address, lambda text: pytest.fail(text)):
        raise ValueError("mine")


def test_outside_the_main_thread_it_is_told() -> None:
    server, address = listening()
    told = threading.Event()

    def block() -> None:
        with watching(address, lambda text: told.set()):
            server.close()
            assert told.wait(60)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert told.is_set()


def test_a_job_server_that_goes_away_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = jobs.Submission("http://head:8265", [], [], [], "0123", storage="s3://bucket", tracking=False)
    running = JobDetails(
        type=JobType.SUBMISSION,
        submission_id="ablate-0123-1",
        status=JobStatus.RUNNING,
        entrypoint="",
        metadata={"ablate.storage": asked.storage},
    )

    class Gone:
        def list_jobs(self) -> list[JobDetails]:
            return [running]

        def get_job_info(self, job: str) -> NoReturn:
            raise requests.ConnectionError("HTTPConnectionPool: Max retries exceeded")

    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(jobs, "connect", lambda address: Gone())
    monkeypatch.setattr(jobs, "parcel_of", lambda submission: None)
    out = io.StringIO()
    assert jobs.submit(asked, Console(file=out, width=200)) == 130
    assert out.getvalue().count("\n") == 2 and "is running already" in out.getvalue()
    assert "the same command" in out.getvalue()
    assert "HTTP" not in out.getvalue()
