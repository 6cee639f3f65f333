"""The same promises through a server, which can also be away for a while."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ablate.storage.storage import Storage
from ablate.tracking.store import Run, ServerAway, Store
from ablate.tracking.sync import BackgroundSync
from ablate.tracking.tracker import SENDERS
from tests.support.helpers import until
from tests.support.mlflow_server import Server
from tests.support.tracking_contract import Make, TrackingContract
from tests.support.tracking_world import EPOCHS, Tracker, finish, history_of, plan_of, train


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def make(server: Server) -> Callable[[], Tracker]:
    _forget_everything(server)

    def tracker() -> Tracker:
        made = Tracker(server.uri)
        made.prepare()
        return made

    return tracker


def _forget_everything(server: Server) -> None:
    """One server serves all tests: the experiments of the test before go."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=server.uri)
    for experiment in client.search_experiments():
        if experiment.name != "Default":
            client.rename_experiment(experiment.experiment_id, f"before-{experiment.experiment_id}")
            client.delete_experiment(experiment.experiment_id)


class TestServer(TrackingContract):
    @pytest.fixture
    def make(self, make: Make) -> Make:
        return make


def test_metrics_of_the_time_a_server_was_away_arrive_afterwards_once_and_in_order(
    server: Server, make: Make, tmp_path: Path
) -> None:
    storage, plan = Storage(str(tmp_path / "storage")), plan_of(rows=("512",))
    tracker = make()
    tracker.open_plan(plan)
    sync = BackgroundSync(tracker, plan, storage, pause_s=0.05, longest_pause_s=0.5)
    (key,) = plan.trainings()
    attempt = train(storage, key, 1)
    sync.notify(key)
    until(lambda: _epochs(make) == [0, 1], what="two epochs to arrive while the training runs")
    server.stop()
    train(storage, key, 2, attempt)
    sync.notify(key)
    until(lambda: sync.last_error is not None, what="the loss to be noticed")
    finish(storage, plan)
    server.start()
    assert sync.close(60), sync.last_error
    results = make().read_plan("batch_size")
    assert results.problems == {}
    entries = history_of(key, EPOCHS)
    points = tracker.store.history(results.trials["512", 0].training_run_id or "", "train/loss")
    assert [(p.step, p.timestamp_ms) for p in points] == [(e["epoch"], e["timestamp_ms"]) for e in entries]


def test_several_trainings_at_once_arrive_once_also_when_the_server_goes_in_their_midst(
    server: Server, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    storage, plan = Storage(str(tmp_path / "storage")), plan_of(seeds=range(2 * SENDERS))
    finish(storage, plan)
    tracker, create = make(), Store.create
    created: list[str] = []

    def create_and_stop(self: Store, experiment: str, name: str, *more: Any) -> Run:
        run = create(self, experiment, name, *more)
        created.append(name)
        if len(created) == 3 * SENDERS:
            server.stop()
        return run

    monkeypatch.setattr(Store, "create", create_and_stop)
    with pytest.raises(ServerAway):
        tracker.sync(plan, storage)
    server.start()
    assert make().sync(plan, storage) == []
    results = make().read_plan("batch_size")
    assert results.problems == {}
    assert len(results.trials) == len(plan.trials)
    # The experiment's own run, its two published rows, and a run of each row and seed; and of each training one.
    store = make().store
    runs = [run for name in ("batch_size", "training") for run in store.runs(str(store.experiment(name)))]
    assert len(runs) == 3 + 2 * len(plan.trials)
    assert len({(run.experiment, run.name) for run in runs}) == len(runs)


def _epochs(make: Make) -> list[int]:
    return [epoch for epoch, _ in make().read_plan("batch_size").curve("512", 0, "train/loss")]


def test_the_ui_of_a_local_database_shows_its_artifacts(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path}/server.db")
    tracker.prepare()
    storage, plan = Storage(str(tmp_path / "storage")), plan_of(rows=("512",))
    finish(storage, plan)
    tracker.sync(plan, storage)
    run_id = tracker.read_plan("batch_size").trials["512", 0].run_id
    server = Server(tmp_path, command=True)
    server.start()
    try:
        url = f"{server.uri}/get-artifact?path=spec.json&run_uuid={run_id}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert b'"batch_size"' in answer.read()
    finally:
        server.stop()
