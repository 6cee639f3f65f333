"""Submitting: what travels, what is refused, which job is found again, and which exit code comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ablate.core.errors import UserError
from ablate.execution import addresses, jobs
from ablate.launch.options import OPTIONS
from tests.support.helpers import write_space
from tests.support.job_server import BUCKET, SERVER, Details, Server, submission_of, submit


def test_the_job_runs_the_same_command_without_a_gpu_or_a_secret(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    submit(submission_of(seeds=[0, 1], sets=["training.epochs=3"], gpus_per_trial=0.5, retry_failed=True, yes=True))
    (request,) = server.submitted
    assert request["entrypoint"] == (
        "python -m ablate.launch --space batch_size --preset smoke --set training.epochs=3 --seeds 0,1 --yes "
        f"--storage {BUCKET} --tracking-uri {SERVER} --gpus-per-trial 0.5 --retry-failed"
    )
    assert request["submission_id"] == "ablate-0123456789-1"
    assert request["entrypoint_num_gpus"] == 0
    assert "hunter2" not in repr(request)
    assert set(request["runtime_env"]) == {"working_dir", "env_vars"}


def test_no_tracking_is_sent_as_such(server: Server) -> None:
    submit(submission_of(tracking=False, tracking_uri=None))
    assert server.submitted[0]["entrypoint"].endswith("--no-tracking")


def test_every_option_reaches_the_job_or_is_refused_or_means_nothing_there() -> None:
    plain = submission_of().arguments
    changes: dict[str, Any] = {
        "space": ["augmentation"],
        "preset": "paper",
        "sets": ["training.epochs=3"],
        "seeds": [1],
        "rows": ["512"],
        "rerun": ["512"],
        "until_decided": True,
        "budget_hours": 12.5,
        "max_seeds": 8,
        "storage": "s3://other/place",
        "data_root": Path("/shared/data"),
        "tracking_uri": "http://other.lab.internal",
        "tracking": False,
        "cpus_per_trial": 2,
        "gpus_per_trial": 2.0,
        "trials_per_process": "2",
        "max_concurrent": 3,
        "max_failures": 5,
        "max_hours": 8.0,
        "on_end": "true",
        "also": ["s3://other/place"],
        "retry_failed": True,
        "prune": True,
        "imports": ["json"],
        "yes": True,
    }
    for name, value in changes.items():
        assert submission_of(**{name: value}).arguments != plain, name
    for name in ("local", "as_json"):
        with pytest.raises(UserError, match="got both"):
            submission_of(**{name: True})
    # They decide whether, how and which launch is submitted.
    for name, value in {"storage_is_shared": True, "dry_run": True, "include": ["notes"]}.items():
        assert submission_of(**{name: value}).arguments == plain, name
    assert "--cluster" not in plain
    others = {"cluster", "storage_is_shared", "dry_run", "include", "local", "as_json", "list_spaces", "watch"}
    assert OPTIONS.keys() == {*changes, *others, "version"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"storage": "./storage"}, ["--storage ./storage", "folder of this machine", "--storage-is-shared"]),
        ({"storage": "~/storage", "storage_is_shared": True}, ["folder of this machine"]),
        ({"storage": "/shared/storage"}, ["add --storage-is-shared"]),
        ({"storage": "file:///shared/storage"}, ["add --storage-is-shared"]),
        ({"storage": "s3://KEY:hunter2@bucket/x"}, ["keys in its address", "***@bucket"]),
        ({"storage": "s3://bucket/x?endpoint_override=127.0.0.1:9000"}, ["this machine's own 127.0.0.1:9000"]),
        ({"storage": "s3://bucket/x?endpoint_override=http://localhost:9000"}, ["this machine's own"]),
        ({"tracking_uri": None}, ["--tracking-uri", "got none"]),
        ({"tracking_uri": "sqlite:///mlflow.db"}, ["file of this machine"]),
        ({"tracking_uri": "mlruns"}, ["file of this machine"]),
        ({"tracking_uri": "http://localhost:5000"}, ["this machine's own address"]),
        ({"tracking_uri": "http://[::1]:5000"}, ["this machine's own address"]),
        ({"tracking_uri": "https://me:hunter2@mlflow.org"}, ["without a password", "~/.mlflow/credentials"]),
        ({"tracking_uri": "http://[bad"}, ["expected an address"]),
    ],
)
def test_what_only_this_machine_reaches_is_refused(
    changes: dict[str, Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError) as caught:
        jobs.check(submission_of(**changes))
    assert "hunter2" not in str(caught.value)
    for word in [*words, "expected"]:
        assert word in str(caught.value)


def test_a_shared_folder_is_taken_at_the_users_word() -> None:
    asked = submission_of(storage="/shared/storage", storage_is_shared=True)
    jobs.check(asked)
    arguments = list(asked.arguments)
    assert arguments[arguments.index("--storage") + 1] == "/shared/storage"
    assert "--storage-is-shared" not in arguments  # the job itself only sees a folder


def test_an_image_folder_is_a_path_on_the_cluster() -> None:
    sets = ["data.name=imagefolder", "data.root=pictures"]
    with pytest.raises(UserError, match=r"--set data.root=pictures: .* absolute path on the cluster, got 'pictures'"):
        jobs.check(submission_of(sets=sets))
    jobs.check(submission_of(sets=["data.name=imagefolder", "data.root=/shared/pictures"]))


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "http://", "auto", "http://me:secret@head:8265"])
def test_an_address_that_is_no_job_server_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="--cluster") as caught:
        addresses.check_cluster(address)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_away_is_one_message() -> None:
    with pytest.raises(UserError, match=r"--cluster http://127.0.0.1:9: expected a Ray job server, got: .*tunnel"):
        jobs.connect("http://127.0.0.1:9")


def test_a_running_job_of_the_plan_is_followed_an_ended_one_is_followed_by_the_next(server: Server) -> None:
    assert submit(submission_of())[0] == 0
    assert submit(submission_of())[0] == 0
    assert list(server.jobs) == ["ablate-0123456789-1", "ablate-0123456789-2"]
    server.jobs["ablate-0123456789-2"].status = "RUNNING"
    code, text = submit(submission_of())
    assert code == 0
    assert "ablate-0123456789-2 is running already" in text
    assert "one\ntwo\n" in text
    assert len(server.submitted) == 2


def test_a_running_job_with_other_storage_is_another_launch(server: Server) -> None:
    submit(submission_of())
    server.jobs["ablate-0123456789-1"].status = "RUNNING"
    submit(submission_of(storage="s3://other/place"))
    assert len(server.submitted) == 2


def test_a_number_that_somebody_else_takes_in_the_same_moment_is_followed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = Details("ablate-0123456789-1", metadata={"ablate.storage": BUCKET})
    listed = iter([[], [taken], [taken]])
    monkeypatch.setattr(server, "list_jobs", lambda: next(listed))
    server.jobs[taken.submission_id] = taken
    code, text = submit(submission_of())
    assert code == 0
    assert "is running already" in text
    assert server.submitted == []


def test_a_cluster_that_is_still_starting_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    original, refusals = server.submit_job, iter(range(3))

    def submit_job(**request: Any) -> None:
        if next(refusals, None) is not None:
            raise RuntimeError("status code 500: No available agent to submit job, please try again later.")
        original(**request)

    monkeypatch.setattr(server, "submit_job", submit_job)
    assert submit(submission_of())[0] == 0
    monkeypatch.setattr(jobs, "START_WAIT_S", 0)
    refusals = iter(range(3))
    with pytest.raises(UserError, match="No available agent"):
        submit(submission_of())


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 1, 1),
        ("FAILED", 2, 2),
        ("FAILED", 130, 130),
        ("STOPPED", None, 130),
        ("FAILED", None, 1),
        ("FAILED", -9, 1),
    ],
)
def test_the_exit_code_is_the_jobs(server: Server, status: str, code: int | None, expected: int) -> None:
    server.end = (status, code)
    result, text = submit(submission_of())
    assert result == expected
    assert ("same command continues it" in text) == (status == "STOPPED" or code not in (0, 1, 2, 130))


def test_a_connection_that_breaks_shows_every_line_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = iter([("one\ntw", False), ("one\ntwo\nthree", True)])

    async def tail(job: str) -> AsyncIterator[str]:
        text, ended = next(turns, ("one\ntwo\nthree", True))
        yield text
        if not ended:
            raise RuntimeError("WebSocket connection closed unexpectedly")
        server.jobs[job].status, server.jobs[job].driver_exit_code = "SUCCEEDED", 0

    monkeypatch.setattr(server, "tail_job_logs", tail)
    _, text = submit(submission_of())
    assert text.count("one\ntwo\nthree") == 1
    assert text.count("one") == 1


def test_rays_own_lines_are_left_out(server: Server) -> None:
    server.log = (
        "2026-11-22 13:04:20,001\tINFO job_manager.py:581 -- Runtime env is setting up.\n"
        "Running entrypoint for job ablate-1: python\nours\n"
    )
    _, text = submit(submission_of())
    assert text.splitlines()[1:] == ["ours"]


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(job: str) -> AsyncIterator[str]:
        yield "one\n"
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "tail_job_logs", interrupted)
    code, text = submit(submission_of())
    assert code == 130
    assert server.jobs["ablate-0123456789-1"].status == "RUNNING"
    assert "same command" in text
    assert "ray job stop --address http://head:8265 ablate-0123456789-1" in text


def test_without_the_data_here_the_same_command_still_has_one_name(server: Server, tmp_path: Path) -> None:
    space = write_space(tmp_path)
    names = []
    for changes in ({}, {}, {"sets": ["training.epochs=3"]}):
        submit(submission_of(plan_id=None, space=[str(space)], **changes))
        names.append(list(server.jobs)[-1].split("-")[1])
    write_space(tmp_path, epochs=5)
    submit(submission_of(plan_id=None, space=[str(space)]))
    names.append(list(server.jobs)[-1].split("-")[1])
    assert names[0] == names[1]
    assert len(set(names)) == 3
