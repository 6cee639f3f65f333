from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.core.errors import TrackingError
from ablate.planning.plan_file import plan_file_of
from ablate.storage.plans import redact
from ablate.storage.storage import Storage
from ablate.tracking import address as address_module
from ablate.tracking import database as database_module
from ablate.tracking import runs, sending
from ablate.tracking import store as store_module
from ablate.tracking.address import resolve
from ablate.tracking.store import Point, ServerAway
from tests.support.tasks import planned
from tests.support.tracking_contract import Make, TrackingContract
from tests.support.tracking_world import Tracker, dump, dying_clients, finish, plan_of


class TestSqlite(TrackingContract):
    @pytest.fixture
    def make(self, at: Callable[[Path], Tracker], tmp_path: Path) -> Make:
        return lambda: at(tmp_path / "a folder")


def test_nothing_else_brings_mlflow() -> None:
    code = "import ablate.planning, ablate.report, ablate.tracking, sys; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_relaunch_of_finished_trainings_reads_their_manifests_alone(
    at: Callable[[Path], Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, plan = Storage(str(tmp_path / "storage")), plan_of(rows=("512", "256"))
    finish(storage, plan)
    at(tmp_path).sync(plan, storage)
    for read in ("record", "history", "checkpoint"):
        monkeypatch.setattr(Storage, read, lambda *_: pytest.fail("storage was read"))
    for one_by_one in (0, 50):
        monkeypatch.setattr(runs, "SEARCHED_ONE_BY_ONE", one_by_one)
        tracker = at(tmp_path)
        tracker.open_plan(plan)
        assert tracker.sync(plan, storage) == []


def test_a_call_whose_answer_is_lost_leaves_nothing_doubled(
    at: Callable[[Path], Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, storage, tracker = plan_of(rows=("512",)), Storage(str(tmp_path / "storage")), at(tmp_path)
    finish(storage, plan)
    left = dying_clients(monkeypatch, ConnectionError)
    for calls in range(1, 100):
        left[0] = calls
        with contextlib.suppress(ServerAway):
            assert tracker.sync(plan, storage) == []
            break
    monkeypatch.undo()
    assert 3 < calls < 99 and len(dump(tracker, ids=False)) == 4  # fails if anything is there twice


def test_large_networks_stay_in_storage(
    at: Callable[[Path], Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "NETWORK_LIMIT_BYTES", 10)
    storage, plan = Storage(str(tmp_path / "storage")), plan_of(rows=("512",))
    finish(storage, plan)
    tracker = at(tmp_path)
    tracker.sync(plan, storage)
    run_id = tracker.read_plan("batch_size").trials["512", 0].training_run_id or ""
    assert tracker.store.download(run_id, "networks/last.pt") is None
    (run,) = tracker.store.runs(tracker.store.experiment("training") or "")
    assert "in storage alone" in run.tags["ablate.networks"]


def test_pruned_trainings_are_told(at: Callable[[Path], Tracker], tmp_path: Path) -> None:
    storage, plan = Storage(str(tmp_path / "storage")), plan_of(rows=("512",))
    finish(storage, plan)
    (key,) = plan.trainings()
    storage.prune(key)
    tracker = at(tmp_path)
    assert tracker.sync(plan, storage) == []
    (run,) = tracker.store.runs(tracker.store.experiment("training") or "")
    assert "pruned" in run.tags["ablate.networks"]


def test_records_brought_home_without_their_checkpoints_are_all_that_reports_need(
    at: Callable[[Path], Tracker], tmp_path: Path
) -> None:
    there, plan = Storage(str(tmp_path / "gpu")), plan_of(analyses=("energy",))
    finish(there, plan)
    shutil.copytree(tmp_path / "gpu", tmp_path / "home", ignore=shutil.ignore_patterns("checkpoint-*"))
    tracker = at(tmp_path)
    assert tracker.sync(plan, Storage(str(tmp_path / "home"))) == []
    for row in ("512", "256"):
        run = tracker.read_plan("batch_size").trials[row, 0]
        assert run.problem is None and {"accuracy/natural", "accuracy/pgd20"} <= run.metrics.keys()
    assert list((tmp_path / "gpu").rglob("checkpoint-*")) and not list((tmp_path / "home").rglob("checkpoint-*"))


def test_long_histories_go_in_batches(at: Callable[[Path], Tracker], tmp_path: Path) -> None:
    store = at(tmp_path).store
    experiment = store.experiment("space", create=True) or ""
    run = store.create(experiment, "run", {}, 1)
    points = [Point(f"m{metric}", 1.0, 5, step) for step in range(600) for metric in range(3)]
    params = {f"p{number}": "x" for number in range(150)}
    tags = {f"t{number}": "x" for number in range(120)}
    store.log(run, points, params, tags)
    (found,) = store.runs(experiment)
    assert (set(found.params), set(tags) - set(found.tags)) == (set(params), set())
    assert sum(len(store.history(run.id, f"m{metric}")) for metric in range(3)) == 1800


@given(st.integers(0, 350), st.integers(0, 350), st.integers(0, 3500))
def test_batches_hold_everything_once_and_tags_come_last(params: int, tags: int, metrics: int) -> None:
    parts = {"params": (params, 100), "metrics": (metrics, 800), "tags": (tags, 100)}
    batches = store_module.batched(**{name: (range(count), most) for name, (count, most) in parts.items()})
    for name, (count, _) in parts.items():
        assert [item for batch in batches for item in batch.get(name, [])] == list(range(count))
    assert all(0 < sum(map(len, batch.values())) <= store_module.BATCH for batch in batches)
    if tags and batches:
        assert "tags" in batches[-1]


def test_default_uri_is_a_file_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve(None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000/")
    assert resolve(None) == "http://server:5000"
    assert resolve("sqlite:///other.db") == f"sqlite:///{tmp_path}/other.db"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("ftp://server", "expected sqlite:///<file>"),
        ("mlflow.db", "did you mean 'sqlite:///mlflow.db'"),
        ("./mlruns", "expected sqlite:///<file>"),
        ("http://", "expected http://<host>"),
        ("sqlite://", "without a file"),
    ],
)
def test_other_uris_are_refused(uri: str, expected: str) -> None:
    with pytest.raises(TrackingError, match=expected):
        Tracker(uri)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="expected to create"):
        Tracker(f"sqlite:///{tmp_path}/file/mlflow.db").prepare()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database at all, just text that goes on and on" * 30)
    with pytest.raises(TrackingError, match="to be a database"):
        Tracker(f"sqlite:///{tmp_path}/mlflow.db").prepare()


def test_readers_create_nothing(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="expected runs at"):
        Tracker(f"sqlite:///{tmp_path}/mlflow.db").prepare(create=False)
    assert list(tmp_path.iterdir()) == []


def test_of_many_first_users_all_get_one_whole_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mlflow.db"

    def slowly(beside: Path, artifacts: Path) -> None:
        with sqlite3.connect(beside) as database:
            database.execute("CREATE TABLE mine (x)")
        if not path.exists():  # another process is faster
            path.write_bytes(b"the other's")

    monkeypatch.setattr(database_module, "create_tables", slowly)
    database_module.create(path, "mlartifacts")
    assert path.read_bytes() == b"the other's"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_creation_leaves_no_half_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(beside: Path, artifacts: Path) -> None:
        beside.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(database_module, "create_tables", dies)
    with pytest.raises(TrackingError, match="no space left"):
        database_module.create(tmp_path / "mlflow.db", "mlartifacts")
    assert list(tmp_path.iterdir()) == []


def test_an_older_database_is_migrated_and_a_copy_kept(at: Callable[[Path], Tracker], tmp_path: Path) -> None:
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    at(tmp_path).open_plan(plan_of())
    command.downgrade(_get_alembic_config(f"sqlite:///{tmp_path}/mlflow.db"), "-1")
    assert database_module.is_old(tmp_path / "mlflow.db")
    assert [info.id for info in at(tmp_path).list_plans("batch_size")] == [plan_of().id]
    assert not database_module.is_old(tmp_path / "mlflow.db")
    assert database_module.is_old(tmp_path / "mlflow.db.before-migration")


def test_a_database_of_a_newer_mlflow_is_refused(at: Callable[[Path], Tracker], tmp_path: Path) -> None:
    at(tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'fffffffffff1'")
    with pytest.raises(TrackingError, match="this MLflow's version or an older one"):
        at(tmp_path)


@pytest.mark.parametrize(
    ("kind", "network"), [("ext4", False), ("overlay", False), ("nfs4", True), ("fuse.sshfs", True), ("lustre", True)]
)
def test_network_drives_are_known_by_the_innermost_mount(tmp_path: Path, kind: str, network: bool) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"root / {'nfs4' if not network else 'ext4'} rw 0 0\ndisk {tmp_path} {kind} rw 0 0\n")
    assert database_module.on_network_drive(tmp_path, mounts) == network
    assert database_module.on_network_drive(tmp_path, tmp_path / "none")


def test_the_database_is_whole_without_its_log(at: Callable[[Path], Tracker], tmp_path: Path) -> None:
    storage, plan = Storage(str(tmp_path / "storage")), plan_of()
    finish(storage, plan)
    tracker = at(tmp_path / "one")
    tracker.sync(plan, storage)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "mlflow.db").write_bytes((tmp_path / "one" / "mlflow.db").read_bytes())
    assert at(tmp_path / "two").read_plan("batch_size").problems == {}


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in address_module.PROBING:
        monkeypatch.delenv(name, raising=False)
    patience = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    monkeypatch.setattr(address_module, "PROBING", patience)
    monkeypatch.setattr(address_module, "WORKING", patience)
    yield
    for name in patience:
        os.environ.pop(name, None)


def test_patience_ends_within_15_s() -> None:
    timeout = int(address_module.PROBING["MLFLOW_HTTP_REQUEST_TIMEOUT"])
    retries = int(address_module.PROBING["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    assert timeout * (1 + retries) + 2 * retries + 1 < 15


@pytest.mark.usefixtures("short_patience")
def test_a_server_that_never_answers_is_noticed_and_its_password_kept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        tracker = Tracker(f"http://user:hunter2@127.0.0.1:{port}")
        with pytest.raises(ServerAway, match="expected an MLflow server at") as caught:
            tracker.prepare()
    assert "hunter2" not in f"{caught.value}{tracker.uri}"
    with pytest.raises(ServerAway, match="got no answer") as caught:
        tracker.prepare()  # nobody listens any more
    assert "hunter2" not in str(caught.value)


SECRET = st.text("abcXYZ0189._-%+!$", min_size=8)


@given(SECRET, st.sampled_from(["http", "https", "postgresql", "mysql+pymysql"]))
def test_no_password_is_ever_shown(secret: str, scheme: str) -> None:
    uri = f"{scheme}://user:{secret}@server:5000/path"
    assert redact(uri) == f"{scheme}://***@server:5000/path"
    command = f"python -m ablate.launch --tracking-uri {uri} --set a=b password={secret} AWS_SECRET_ACCESS_KEY={secret}"
    assert secret not in redact(command)
    assert "--set a=b" in redact(command)


def test_no_password_reaches_a_run(at: Callable[[Path], Tracker], tmp_path: Path) -> None:
    tracker = at(tmp_path)
    plan = planned(tmp_path)
    file = plan_file_of(plan, {"command": "launch --tracking-uri http://me:hunter2@server"})
    assert "hunter2" not in str(file)
    tracker.open_plan(file)
    store = tracker.store
    (run,) = store.runs(store.experiment(plan.spaces[0].name) or "")
    assert "hunter2" not in str(run.tags)
    assert "http://***@server" in run.tags["ablate.launch.command"]
    assert b"hunter2" not in (store.download(run.id, "plan.json") or b"")


def test_spaces_cannot_take_the_names_of_our_own_experiments(at: Callable[[Path], Tracker], tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="'training'"):
        at(tmp_path).open_plan(plan_of(space="training"))


SPELLINGS = itertools.count()
MOVES = [("project", "per%20cent", False), ("per%20cent", "a#b", False), ("project", "q?x", True)]


def seen_by_the_ui(folder: Path, run_id: str, path: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """An artifact as `mlflow ui` finds it when it is started in a folder: by a database relative to it."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    monkeypatch.chdir(folder)
    # MLflow keeps an engine by its address: another spelling each time, or it would be another folder's mlflow.db.
    store = SqlAlchemyStore(f"sqlite:///{'./' * next(SPELLINGS)}mlflow.db", "./mlartifacts")
    repository = get_artifact_repository(store.get_run(run_id).info.artifact_uri)
    store.engine.dispose()
    return Path(repository.download_artifacts(path)).read_bytes()


@pytest.mark.parametrize(("before", "after", "copied"), MOVES)
def test_artifacts_are_found_and_written_where_the_folder_went(
    at: Callable[[Path], Tracker],
    tmp_path: Path,
    before: str,
    after: str,
    copied: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = tmp_path / before, tmp_path / after
    storage, plan = Storage(str(tmp_path / "storage")), plan_of(rows=("512",))
    finish(storage, plan)
    at(old).sync(plan, storage)
    shutil.copytree(old, new) if copied else old.rename(new)
    for path in (old / "mlartifacts").rglob("*.npz"):
        path.write_bytes(b"nobody reads it here any more")
    kept = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    later = plan_of(rows=("256",), plan_id="bbbbbbbbbb", space="lowpass")
    finish(storage, later)
    tracker = at(new)
    tracker.sync(later, storage)
    for space, row in (("batch_size", "512"), ("lowpass", "256")):
        read = tracker.read_plan(space)
        assert read.problems == {} and read.correct(row, 0)
        trial = read.trials[row, 0]
        for run_id, path in ((trial.run_id, "measurements.npz"), (trial.training_run_id, "networks/last.pt")):
            assert seen_by_the_ui(new, run_id or "", path, monkeypatch)
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == kept
    with sqlite3.connect(new / "mlflow.db") as database:
        told = [row[0] for row in database.execute("SELECT artifact_uri FROM runs")]
    assert all(Path(address_module.artifact_folder(each) or "").is_relative_to(new) for each in told)


def test_addresses_move_together_or_not_at_all(
    at: Callable[[Path], Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, plan = Storage(str(tmp_path / "storage")), plan_of(rows=("512",))
    finish(storage, plan)
    at(tmp_path / "old").sync(plan, storage)
    (tmp_path / "old").rename(tmp_path / "new")

    def addresses() -> list[str]:
        with sqlite3.connect(tmp_path / "new" / "mlflow.db") as database:
            query = "SELECT artifact_location FROM experiments UNION ALL SELECT artifact_uri FROM runs"
            return [row[0] for row in database.execute(query)]

    before = addresses()

    def dies(address: str) -> Path | None:
        if address.endswith("/artifacts"):  # a run's: those of experiments were rewritten by then
            raise OSError("the disk went away")
        return address_module.artifact_folder(address)

    monkeypatch.setattr(database_module, "artifact_folder", dies)
    with pytest.raises(TrackingError, match="the disk went away"):
        at(tmp_path / "new")
    assert addresses() == before
    monkeypatch.undo()
    assert at(tmp_path / "new").read_plan("batch_size").correct("512", 0)


def test_a_database_copied_without_its_artifacts_still_finds_them(
    at: Callable[[Path], Tracker], tmp_path: Path
) -> None:
    storage, plan = Storage(str(tmp_path / "storage")), plan_of(rows=("512",))
    finish(storage, plan)
    at(tmp_path / "old").sync(plan, storage)
    (tmp_path / "new").mkdir()
    shutil.copyfile(tmp_path / "old" / "mlflow.db", tmp_path / "new" / "mlflow.db")
    assert at(tmp_path / "new").read_plan("batch_size").correct("512", 0)
