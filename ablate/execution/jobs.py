"""A launch as a job of a Ray cluster: submitted, followed, found again.

The driver runs on the cluster's head; this process only shows its log. A job is named `ablate-<plan>-<n>`: the same
command finds the running one and follows it, and submits the next number where there is none. Ray's submission ids are
single-use, so of two commands at once one gets the number and the other one finds its job.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ablate.core import digest
from ablate.core.errors import UserError
from ablate.core.places import local_path
from ablate.core.provenance import commit
from ablate.core.text import first_line, harmless, plural, printable
from ablate.execution import addresses, package
from ablate.execution.ray_head import HeadLost
from ablate.spaces.space import SpaceFile, Trial

STOP_WAIT_S = 60
"""How long `ray job stop` waits for a launch to end in order before it is killed."""

POLL_S = 1.0
START_WAIT_S = 60
"""How long a cluster whose job server answers may take until it starts jobs."""

_RUNNING = ("PENDING", "RUNNING")
_OURS = (0, 1, 2, 130)
_RAYS_OWN = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+\s+\w+ (job_manager|worker|packaging)\.py:\d+ -- |Running entrypoint for job "
)


@dataclass(frozen=True)
class Submission:
    """A launch to be submitted.

    Args:
        cluster: Address of the job server, `http://head:8265`.
        arguments: Of `python -m ablate.launch` on the head.
        spaces: Those asked for.
        trials: Of those spaces.
        plan_id: None where the data that the plan hangs on lie on the cluster alone.
        storage: A folder or bucket, as given.
        storage_is_shared: Whether the user says that every node mounts the folder.
        tracking: Whether MLflow is told.
        tracking_uri: Of MLflow, as given or from the environment.
        imports: The user's own modules, which are imported here already.
        include: Other files and folders to send.
    """

    cluster: str
    arguments: Sequence[str]
    spaces: Sequence[SpaceFile]
    trials: Sequence[Trial]
    plan_id: str | None
    storage: str
    storage_is_shared: bool = False
    tracking: bool = True
    tracking_uri: str | None = None
    imports: Sequence[str] = ()
    include: Sequence[str] = ()


def submit(submission: Submission, console: Console) -> int:
    """Submit a launch, or find it running, and follow its log to the end.

    Args:
        submission: What to launch.
        console: Where the job's lines go.

    Returns:
        The job's exit code: 0, 1 or 2 as of any launch; 130 when the job was stopped, or this process interrupted while
        the job goes on.

    Raises:
        UserError: Something only this machine reaches, files that cannot be sent, or a cluster that does not answer.
    """
    check(submission)
    parcel = parcel_of(submission)
    client = connect(submission.cluster)
    plan = submission.plan_id or _digest(submission)
    try:
        job = _find_or_start(client, submission, plan, parcel, console)
        _follow(client, job, console)
        return _exit_code(_details(client, job), console)
    except HeadLost as error:
        console.print(Text(printable(str(error)), overflow="fold"))
        return 130
    except KeyboardInterrupt:
        address = shlex.quote(submission.cluster)
        console.print(
            "Left alone: the job goes on. The same command follows it again; so does\n"
            f"  ray job logs --follow --address {address} ablate-{plan}-N\n"
            f"and this ends it in order:\n  ray job stop --address {address} ablate-{plan}-N".replace(
                f"ablate-{plan}-N", _newest(client, plan) or f"ablate-{plan}-1"
            ),
            markup=False,
        )
        return 130


def check(submission: Submission) -> None:
    """Refuse what a job on the cluster could not use.

    Args:
        submission: What to launch.

    Raises:
        UserError: What it names is reached from this machine alone, or holds a password.
    """
    addresses.check_storage(submission.storage, submission.storage_is_shared)
    for trial in submission.trials:
        root = trial.spec.data.root
        if root is not None and not root.startswith("/"):
            raise UserError(
                f"{trial.where('data.root')}: data.root: expected the folder's absolute path on the cluster, "
                f"got {root!r}"
            )
    if submission.tracking:
        addresses.check_tracking(submission.tracking_uri)


def parcel_of(submission: Submission) -> package.Parcel:
    """The files that a submission sends.

    Raises:
        UserError: As of `package.gather`.
    """
    travel, stay = _weights(submission.trials)
    parcel = package.gather(submission.spaces, submission.imports, [*submission.include, *travel])
    parcel.left_out += [f"model.weights {path}: an absolute path, which is read on the cluster" for path in stay]
    return parcel


def _weights(trials: Iterable[Trial]) -> tuple[list[str], list[str]]:
    """The files of weights that a job carries to a cluster, and those that it finds there.

    Returns:
        Paths below the working folder, which travel, and absolute ones, which are paths of the cluster.

    Raises:
        UserError: A path below the working folder with nothing there.
    """
    here: dict[str, None] = {}
    there: dict[str, None] = {}
    for trial in trials:
        given = trial.spec.model.weights
        if given is None:
            continue
        path = local_path(given, "model.weights")
        if path.is_absolute():
            there[given] = None
        elif path.is_file():
            here[given] = None
        else:
            raise UserError(
                f"{trial.where('model.weights')}: model.weights: expected a file here, which travels with the job, or "
                f"an absolute path on the cluster, got {given!r}: no such file in {Path.cwd()}"
            )
    return list(here), list(there)


def checked(submission: Submission) -> package.Parcel:
    """What a submission would send, after everything that can be refused without asking the cluster.

    Raises:
        UserError: As of `submit`.
    """
    check(submission)
    addresses.check_cluster(submission.cluster)
    return parcel_of(submission)


def show(parcel: package.Parcel, cluster: str, console: Console) -> None:
    """Print which files would travel, and what would not.

    Args:
        parcel: From `checked`.
        cluster: Where to.
        console: Where to print.
    """
    console.print()
    what = f"{plural(len(parcel.files), 'file')}, {parcel.bytes / 1e6:.1f} MB, would travel to {cluster}:"
    console.print(Text(what, overflow="fold"))
    for name in sorted(parcel.files):
        console.print(Text(f"  {printable(name)}", overflow="fold"))
    _tell_left_out(parcel, console)


def _tell_left_out(parcel: package.Parcel, console: Console) -> None:
    for reason in parcel.left_out:
        console.print(Text(f"does not travel: {printable(reason)}", style="yellow", overflow="fold"))


def _digest(submission: Submission) -> str:
    """The plan's stand-in where its data cannot be seen from here: what was asked for, word by word."""
    contents = {name: path.read_text() for name, path in package.own_spaces(submission.spaces).items()}
    return digest.digest({"arguments": list(submission.arguments), "spaces": contents})[:10]


def connect(address: str) -> Any:
    """A client of a job server.

    Raises:
        UserError: The address is none of a job server, or nobody answers there.
    """
    addresses.check_cluster(address)
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except Exception as error:
        raise _unanswered(address, error) from error


def _unanswered(address: str, error: Exception) -> UserError:
    line = first_line(error)
    hint = "is its tunnel open?"
    if re.search(r"40[13]|auth|token", f"{type(error).__name__} {error}", re.IGNORECASE):
        hint = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token file"
    return UserError(f"--cluster {address}: expected a Ray job server, got: {line}; {hint}")


def _find_or_start(client: Any, submission: Submission, plan: str, parcel: package.Parcel, console: Console) -> str:
    storage = submission.storage
    patience = START_WAIT_S
    while True:
        numbers = _jobs(client, plan)
        for _, details in sorted(numbers.items(), reverse=True):
            if details.status in _RUNNING and (details.metadata or {}).get("ablate.storage") == storage:
                console.print(f"{details.submission_id} is running already; following it.", markup=False)
                return str(details.submission_id)
        job = f"ablate-{plan}-{max(numbers, default=0) + 1}"
        try:
            _start(client, submission, job, parcel, console.width)
        except RuntimeError as error:
            if job in {details.submission_id for details in _jobs(client, plan).values()}:
                continue  # somebody else took the number in this moment
            if "try again later" in str(error) and patience > 0:  # a cluster whose agents are still starting
                time.sleep(POLL_S)
                patience -= 1
                continue
            raise _unanswered(submission.cluster, error) from error
        _tell_left_out(parcel, console)
        console.print(f"Submitted {job} to {submission.cluster}.", markup=False)
        return job


def _jobs(client: Any, plan: str) -> dict[int, Any]:
    found = {}
    for details in client.list_jobs():
        match = re.fullmatch(rf"ablate-{plan}-(\d+)", details.submission_id or "")
        if match:
            found[int(match[1])] = details
    return found


def _newest(client: Any, plan: str) -> str | None:
    try:
        numbers = _jobs(client, plan)
    except Exception:  # only to word a message
        return None
    return f"ablate-{plan}-{max(numbers)}" if numbers else None


def _start(client: Any, submission: Submission, job: str, parcel: package.Parcel, width: int) -> None:
    # No secrets: a runtime environment shows in the dashboard. The head's own environment holds MLflow's login.
    variables = {
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": str(width),
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        "ABLATE_COMMIT": commit() or "",
    }
    with tempfile.TemporaryDirectory(prefix="ablate-job-") as folder:
        parcel.write(Path(folder))
        client.submit_job(
            entrypoint=f"python -m ablate.launch {shlex.join(submission.arguments)}",
            submission_id=job,
            runtime_env={"working_dir": folder, "env_vars": variables},
            metadata={"ablate.plan": job.split("-")[1], "ablate.storage": submission.storage},
            entrypoint_num_gpus=0,
        )


def _follow(client: Any, job: str, console: Console) -> None:
    """Show a job's log until it ends; a connection that breaks is made again."""
    from aiohttp import ClientError

    log = _Log(console)
    while True:
        running = _details(client, job).status in _RUNNING
        try:
            asyncio.run(log.show(client.tail_job_logs(job)))
        except (ClientError, RuntimeError, OSError) as error:
            logging.getLogger(__name__).debug("the log's connection broke: %s", error)
        if not running:
            log.end()
            return
        time.sleep(POLL_S)


class _Log:
    """Whole lines of a job's log, each once however often the log is read from its start."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.shown = 0
        self.rest = ""

    async def show(self, chunks: Any) -> None:
        passed = 0
        async for chunk in chunks:
            new = chunk[max(0, self.shown - passed) :]
            passed += len(chunk)
            self.shown = max(self.shown, passed)
            *lines, self.rest = (self.rest + new).split("\n")
            for line in lines:
                self._write(line + "\n")

    def end(self) -> None:
        self._write(self.rest)
        self.rest = ""

    def _write(self, line: str) -> None:
        if not _RAYS_OWN.match(line):
            self.console.file.write(harmless(line))
            self.console.file.flush()


def _details(client: Any, job: str) -> Any:
    """What the cluster knows of a job; asked again while it does not answer.

    Raises:
        HeadLost: It does not answer any more.
    """
    for wait_s in (1.0, 2.0, 4.0, 8.0, 16.0, None):
        try:
            return client.get_job_info(job)
        except Exception as error:
            if wait_s is None:
                why = "" if isinstance(error, OSError) else f" ({first_line(error)})"
                raise HeadLost(
                    f"No news of {job} for half a minute{why}. It may go on; the same command follows it or goes on "
                    "with it, once the cluster answers."
                ) from error
            time.sleep(wait_s)
    raise AssertionError  # unreachable: the last turn returns or raises


def _exit_code(details: Any, console: Console) -> int:
    if details.status == "SUCCEEDED":
        return 0
    if details.status == "STOPPED":
        console.print(f"{details.submission_id} was stopped; the same command continues it.", markup=False)
        return 130
    code = details.driver_exit_code
    if code in _OURS:
        return int(code)
    reason = first_line(details.message or "", "no reason given")
    console.print(
        f"{details.submission_id} was lost ({reason}). What it finished is in storage; the same command continues it.",
        markup=False,
    )
    return 1
