"""A job server in memory, and launches to be submitted to it."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ablate.execution import jobs
from ablate.launch.options import Options
from ablate.launch.request import Request
from ablate.launch.request import submission_of as submission

BUCKET = "s3://bucket/ablate"
SERVER = "http://mlflow.lab.internal:5000"


def submission_of(*, plan_id: str | None = "0123456789", **changes: Any) -> jobs.Submission:
    settings = {"space": ["batch_size"], "preset": "smoke", "storage": BUCKET, "tracking_uri": SERVER, **changes}
    return submission(Request.read(Options(cluster="http://head:8265", **settings)), plan_id)


@dataclass
class Details:
    submission_id: str
    status: str = "RUNNING"
    metadata: dict[str, str] = field(default_factory=dict)
    driver_exit_code: int | None = None
    message: str = ""


class Server:
    """A job server in memory: each submitted job prints its log and ends as told."""

    def __init__(self, log: str = "one\ntwo\n", status: str = "SUCCEEDED", code: int | None = 0) -> None:
        self.jobs: dict[str, Details] = {}
        self.submitted: list[dict[str, Any]] = []
        self.carried: list[str] = []
        self.log, self.end = log, (status, code)

    def list_jobs(self) -> list[Details]:
        return [*self.jobs.values(), Details("somebody-elses")]

    def submit_job(self, **request: Any) -> None:
        if request["submission_id"] in self.jobs:
            raise RuntimeError("Job with submission_id already exists")
        folder = Path(request["runtime_env"]["working_dir"])
        self.carried = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        self.submitted.append(request)
        self.jobs[request["submission_id"]] = Details(request["submission_id"], metadata=request["metadata"])

    def get_job_info(self, job: str) -> Details:
        return self.jobs[job]

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for chunk in (self.log[:5], self.log[5:]):
            yield chunk
        self.jobs[job].status, self.jobs[job].driver_exit_code = self.end


def submit(submission: jobs.Submission) -> tuple[int, str]:
    out = io.StringIO()
    code = jobs.submit(submission, Console(file=out, width=110, soft_wrap=True))
    return code, out.getvalue()
