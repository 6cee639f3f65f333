"""A worker of Ray Tune is used again only once the thread of the training that it was stopped in has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ablate.execution import tune
from ablate.execution.base import Listener, Outcome, Task
from ablate.learning.data import Dataset, dataset_name
from ablate.storage.storage import Storage
from tests.support.tasks import planned, task

# isort: split
from ray.air._internal.util import RunnerThread
from ray.train._internal.storage import StorageContext
from ray.tune.trainable import wrap_function

MINUTE_S = 60.0


class Place(StorageContext):
    """Where a trial's files go, without a cluster's session."""

    def _get_session_path(self) -> str:
        return str(Path(self.storage_fs_path) / "session")


def test_a_stopped_training_has_ended_before_its_worker_begins_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # Ray goes into the trial's folder, and this takes back where tests were
    told, a_minute_later = list[str](), threading.Event()
    join = RunnerThread.join

    def run_tasks(
        tasks: Sequence[Task],
        datasets: Mapping[str, Dataset],
        listen: Listener,
        ended: Callable[[Outcome], None],
        metric: str | None,
        should_continue: Callable[[str, int, float], bool],
    ) -> None:
        [key] = [each.key for each in tasks]
        told.append(f"{key} begins")
        try:
            should_continue(key, 1, 50.0)
        finally:
            if key == "first":
                a_minute_later.wait()
            told.append(f"{key} ends")

    def wait_for(thread: RunnerThread, timeout: float | None = None) -> object:
        """What a training is stopped in takes a minute, and passes at once where somebody waits that long for it."""
        if timeout is not None and timeout < MINUTE_S:
            return None
        a_minute_later.set()
        return join(thread, timeout)

    monkeypatch.setattr(tune, "run_tasks", run_tasks)
    monkeypatch.setattr(RunnerThread, "join", wait_for)
    monkeypatch.setattr("ray.get", lambda reference: reference)
    given = task(planned(tmp_path), Storage(str(tmp_path / "storage")))
    first, second = (
        {"tasks": [tune.pack(replace(given, key=key))], "judged": True, "gpus": 0} for key in ("first", "second")
    )
    datasets = dict.fromkeys([dataset_name(given.spec.data)])
    payload = {"datasets": datasets, "imports": [], "folder": ".", "metric": "validation/natural"}
    place = Place(str(tmp_path / "scratch"), experiment_dir_name="all", trial_dir_name="one")
    worker = wrap_function(lambda config: tune.run_job(config, payload))(first, place)
    assert worker.train()["epoch"] == 1
    assert worker.reset(second, place), "the trial that was to use it would end as lost"
    assert worker.train()["epoch"] == 1
    assert told == ["first begins", "first ends", "second begins"]
    worker.stop()
