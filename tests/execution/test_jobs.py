"""Submitting: what travels, what is refused, which job is found again, and which exit code comes back."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablate import spaces
from ablate.core.errors import UserError
from ablate.core.user_code import import_modules
from ablate.execution import addresses, jobs, package
from ablate.launch.options import OPTIONS, Options
from ablate.launch.request import submission_of as submission
from ablate.launch.session import launch
from ablate.spaces import presets
from tests.support.helpers import launch_here, options_of, write_space

BUCKET = "s3://bucket/ablate"
SERVER = "http://mlflow.lab.internal:5000"


def submission_of(*, plan_id: str | None = "0123456789", **changes: Any) -> jobs.Submission:
    settings = {"space": ["batch_size"], "preset": "smoke", "storage": BUCKET, "tracking_uri": SERVER, **changes}
    return submission(Options(cluster="http://head:8265", **settings), plan_id)


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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(jobs, "connect", lambda address: server)
    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    return server


def submit(submission: jobs.Submission) -> tuple[int, str]:
    out = io.StringIO()
    code = jobs.submit(submission, Console(file=out, width=110, soft_wrap=True))
    return code, out.getvalue()


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
        "storage": "s3://other/place",
        "data_root": Path("/shared/data"),
        "tracking_uri": "http://other.lab.internal",
        "tracking": False,
        "cpus_per_trial": 2,
        "gpus_per_trial": 2.0,
        "max_concurrent": 3,
        "max_failures": 5,
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
    assert OPTIONS.keys() == {*changes, *others}


def test_only_code_and_the_users_own_files_travel(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mlflow.db", ".env", "storage/x.json", "data/x.json", ".git/config", "mine_extra.py", "secrets.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("hunter2")
    (tmp_path / "mine_helper.py").write_text("VALUE = 1\n")
    (tmp_path / "mine.py").write_text("import mine_helper\n")
    (tmp_path / "mine_package" / "storage").mkdir(parents=True)
    (tmp_path / "mine_package" / "__init__.py").write_text("")
    (tmp_path / "mine_package" / "inner.py").write_text("")
    (tmp_path / "mine_package" / "storage" / "x.json").write_text("hunter2")
    space = write_space(tmp_path)
    submit(submission_of(space=[str(space)], imports=["mine", "mine_package.inner", "json"]))
    assert server.submitted[0]["entrypoint"].startswith("python -m ablate.launch --space spaces/tiny.yaml")
    code = {name for name in server.carried if name.startswith(("ablate/", "search_spaces/"))}
    assert {"ablate/launch/__main__.py", "ablate/learning/models/resnet.py", "search_spaces/presets/smoke.yaml"} <= code
    assert set(server.carried) - code == {
        "mine.py",
        "mine_helper.py",
        "mine_package/__init__.py",
        "mine_package/inner.py",
        "spaces/tiny.yaml",
    }
    assert {name for name in code if not name.endswith(".py")} == {
        "ablate/py.typed",
        *("ablate/report/page.html", "ablate/report/page.css"),
        *("search_spaces/schema.json", "search_spaces/presets/paper.yaml", "search_spaces/presets/smoke.yaml"),
        *(f"search_spaces/{name}.yaml" for name in spaces.space_names()),
    }
    assert not [name for name in server.carried if "__pycache__" in name or name.endswith((".pyc", ".db"))]


def test_what_lies_beside_the_code_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets beside the code, links out of it, environments, and folders that the user's packages call data."""
    code = Path(package.__file__).parents[2]
    shutil.copytree(code / "ablate", tmp_path / "ablate", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(code / "search_spaces", tmp_path / "search_spaces")
    secret = tmp_path / "outside" / "secret.py"
    secret.parent.mkdir()
    secret.write_text("hunter2")
    (tmp_path / "ablate" / "credentials.json").write_text("hunter2")
    (tmp_path / "ablate" / "report" / "token.yaml").write_text("hunter2")
    (tmp_path / "search_spaces" / "credentials.json").write_text("hunter2")
    (tmp_path / "search_spaces" / "secrets.yaml").write_text("password: hunter2")
    (tmp_path / "search_spaces" / "presets" / "secrets.yaml").write_text("password: hunter2")
    (tmp_path / "search_spaces" / "shadow.yaml").symlink_to(secret)
    (tmp_path / "ablate" / "shadow.py").symlink_to(secret)
    (tmp_path / "ablate" / "folder").symlink_to(secret.parent)
    monkeypatch.setattr(package, "__file__", str(tmp_path / "ablate" / "execution" / "package.py"))
    monkeypatch.setattr(presets, "folder", lambda: tmp_path / "search_spaces")
    parcel = package.gather([], [])
    there = {str(path.relative_to(tmp_path)) for path in (tmp_path / "ablate").rglob("*.py") if not path.is_symlink()}
    assert {name for name in parcel.files if name.endswith(".py")} == there
    assert not [name for name, path in parcel.files.items() if "hunter2" in path.read_text()]
    told = "\n".join(parcel.left_out)
    for name in ("shadow.py", "ablate/folder", "search_spaces/shadow.yaml", "secrets.yaml", "presets/secrets.yaml"):
        assert name in told


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a package of the user's own, imported."""
    folder = tmp_path / "project"
    for name in ("own_code/__init__.py", "own_code/data/loader.py", "own_code/.venv/lib/x.py", "own_code/env/y.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "own_code" / "env" / "pyvenv.cfg").write_text("")
    (folder / "own_code" / "weights.json").write_text("{}")
    (tmp_path / "secret.py").write_text("hunter2")
    (folder / "own_code" / "inner.py").symlink_to(folder / "own_code" / "data" / "loader.py")
    (folder / "own_code" / "outer.py").symlink_to(tmp_path / "secret.py")
    (folder / "own_code" / "gone.py").symlink_to(tmp_path / "nothing.py")
    (folder / "notes").mkdir()
    for name in ("a.txt", ".gitignore"):
        (folder / "notes" / name).write_text("*")
    (folder / "notes" / "out.txt").symlink_to(tmp_path / "secret.py")
    monkeypatch.chdir(folder)
    import_modules(["own_code"])
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_code"]:
        del sys.modules[name]


def test_of_the_users_packages_python_travels_and_what_is_asked_for(mine: Path) -> None:
    parcel = package.gather([], ["own_code"])
    sent = {name for name in parcel.files if not name.startswith(("ablate/", "search_spaces/"))}
    assert sent == {"own_code/__init__.py", "own_code/data/loader.py", "own_code/inner.py"}
    assert {"own_code/outer.py", "own_code/gone.py"} <= {reason.partition(":")[0] for reason in parcel.left_out}
    more = package.gather([], ["own_code"], ["own_code/weights.json", str(mine / "notes")])
    assert set(more.files) - set(parcel.files) == {"own_code/weights.json", "notes/a.txt"}
    assert {"notes/out.txt", "notes/.gitignore"} <= {reason.partition(":")[0] for reason in more.left_out}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("nothing.json", "expected a file or folder, got none"),
        ("../secret.py", "or beside a module of --import, got"),
        ("/etc/passwd", "or beside a module of --import, got /etc/passwd"),
        (".", "got the whole of it"),
        ("notes/out.txt", "got a link to"),
    ],
)
def test_what_cannot_be_included_is_refused(mine: Path, asked: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^--include {re.escape(asked)}: .*{re.escape(words)}"):
        package.gather([], ["own_code"], [asked])


def test_more_than_ray_takes_is_refused(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "LIMIT_BYTES", 2**20)
    with (mine / "large.bin").open("wb") as file:
        file.truncate(2 * 2**20)
    with pytest.raises(UserError, match=r"expected at most 1 MiB of files to send, got \d; the largest is large.bin"):
        package.gather([], [], ["large.bin"])


def test_the_package_data_sent_are_those_of_the_package() -> None:
    with (Path(package.__file__).parents[2] / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["package-data"]
    assert {name: {*files} - {"README.md"} for name, files in listed.items()} == {
        name: {*files} for name, files in package.PACKAGE_DATA.items()
    }


def test_a_dry_run_lists_what_would_travel(mine: Path) -> None:
    space = write_space(mine)
    given = options_of(
        mine, cluster="http://head:8265", storage_is_shared=True, local=False, imports=["own_code"], dry_run=True
    )
    code, text = launch_here(given)
    assert (code, "distinct trainings" in text) == (0, True)
    lines = text.splitlines()
    for name in ("own_code/data/loader.py", f"spaces/{space.name}", "ablate/launch/__main__.py"):
        assert f"  {name}" in lines
    assert "weights.json" not in text
    assert "does not travel: own_code/outer.py: a link out of its folder" in text
    out = io.StringIO()
    assert launch(replace(given, as_json=True), Console(file=io.StringIO()), out) == 0
    told = json.loads(out.getvalue())
    assert [name for name in told["travels"] if f"  {name}" not in lines] == []
    assert len(told["trials"]) == 3
    with pytest.raises(UserError, match=r"data\.root"):
        launch_here(replace(given, sets=["data.name=imagefolder", "data.root=pictures"]))
    _, text = launch_here(replace(given, sets=["data.name=imagefolder", "data.root=/no/such/pictures"]))
    assert "The plan cannot be seen from here" in text and "  ablate/launch/__main__.py" in text


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
