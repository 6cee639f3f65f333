"""Hand-made plans and storage contents: what a launch leaves behind, without training anything."""

from __future__ import annotations

import functools
import inspect
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from ablate.core.digest import digest
from ablate.learning.state import TrainingState
from ablate.spaces.specs import TrialSpec
from ablate.storage.attempts import Attempt
from ablate.storage.checkpoints import save_state
from ablate.storage.plans import LAYOUT, DataPart, PlanFile, RowPart, SpacePart, TrialPart
from ablate.storage.records import Record
from ablate.storage.storage import Storage
from ablate.tracking.tracker import Tracker

IMAGES = 20
EPOCHS = 3
T0 = 1_700_000_000_000


def key_of(*what: object) -> str:
    return digest(list(what))


def spec_of(batch_size: int, seed: int) -> dict[str, Any]:
    nested = {"training": {"epochs": EPOCHS, "batch_size": batch_size}, "seed": seed}
    return TrialSpec.model_validate(nested).model_dump(mode="json")


def plan_of(
    rows: Sequence[str] = ("512", "256"),
    seeds: Sequence[int] = (0,),
    *,
    plan_id: str = "aaaaaaaaaa",
    preset: str = "paper",
    space: str = "batch_size",
    paper: bool = False,
    metrics: Sequence[str] = ("accuracy/natural", "accuracy/pgd20"),
    analyses: Sequence[str] = (),
    shared: bool = False,
    launched_ms: int = T0,
    salt: str = "",
    claims: Sequence[dict[str, Any]] = (),
    published: bool = True,
) -> PlanFile:
    """A plan with one training a row and seed, or (shared) one a seed that is measured once a row."""
    data = DataPart(
        name="cifar10" if paper else "digits",
        label="CIFAR-10" if paper else "digits 16x16",
        train_digest="train",
        test_digest="test",
        train_count=100,
        test_count=IMAGES,
        classes=10,
        paper=paper,
    )
    trials = []
    for row in rows:
        for seed in seeds:
            training = key_of(salt, "shared" if shared else row, seed)
            trials.append(
                TrialPart(
                    space=space,
                    row=row,
                    seed=seed,
                    training=training,
                    columns={metric: key_of(training, metric, row) for metric in metrics},
                    analyses={name: key_of(training, name, row) for name in analyses},
                    data=data,
                    spec=spec_of(int(row) if row.isdecimal() else 512, seed),
                )
            )
    parts = [RowPart(label=row, published={"natural": 75.0, "pgd20": 42.5} if published else {}) for row in rows]
    title = "Batch size of PGD-7 training"
    return PlanFile(
        layout=LAYOUT,
        id=plan_id,
        preset=preset,
        overrides=[],
        seeds=list(seeds),
        spaces=[SpacePart(name=space, title=title, table=2, rows=parts, claims=list(claims))],
        trials=trials,
        provenance={"git_commit": "c0ffee", "torch": "2.99", "command": "python -m ablate.launch"},
        created_ms=T0,
        launched_ms=launched_ms,
    )


def history_of(key: str, epochs: int, again: int = 0) -> list[dict[str, Any]]:
    """Entries of epoch 0 to `epochs`, always the same ones; others where it was trained `again`."""
    level = int(key[:4], 16) / 65536 + again
    return [
        {
            "epoch": epoch,
            "timestamp_ms": T0 + 1000 * epoch + 100_000 * again,
            "metrics": {"train/loss": 2.0 + level - 0.1 * epoch, "energy/ratio": 1.0 + level + 0.2 * epoch},
        }
        for epoch in range(epochs + 1)
    ]


def correct_of(key: str, again: int = 0) -> np.ndarray[Any, Any]:
    right = np.random.default_rng(int(key[:8], 16)).random(IMAGES) < 0.6
    return right if not again else np.roll(~right, again)


def train(
    storage: Storage,
    key: str,
    epochs: int = EPOCHS,
    attempt: Attempt | None = None,
    best: bool = False,
    again: int = 0,
    anew: bool = False,
) -> Attempt:
    """Checkpoints up to an epoch, as a worker writes them."""
    attempt = attempt or storage.attempt(key)
    history = history_of(key, epochs, again)
    network = {"weight": torch.full((2,), float(epochs))}
    kept = {"epoch": 1, "accuracy": 50.0, "network": network} if best else None
    content = save_state(TrainingState(epochs, network, {}, history, kept))
    attempt.save_checkpoint(epochs, content, history, finished=epochs == EPOCHS, anew=anew)
    return attempt


def measure(attempt: Attempt, trial: TrialPart, count: int | None = None, again: int = 0) -> None:
    """Records of a trial's measurements, or of the first few."""
    meta = {"device": "cpu", "torch": "2.99", "python": "3.11", "threads": 1, "timestamp_ms": T0 + 9000 + again}
    for key in list(trial.columns.values())[:count]:
        right = correct_of(key, again)
        attempt.save_record(Record(key, {"accuracy": 100.0 * right.mean()}, {"correct": right}, dict(meta)))
    for name, key in list(trial.analyses.items()) if count is None else []:
        array = np.arange(6.0).reshape(2, 3)
        attempt.save_record(Record(key, {f"{name}/share": 0.25}, {"spectrum": array}, dict(meta)))


def finish(storage: Storage, plan: PlanFile, keys: Sequence[str] | None = None, **how: Any) -> None:
    """Every training of a plan, trained and measured."""
    for key, trials in plan.trainings().items():
        if keys is None or key in keys:
            attempt = train(storage, key, **how)
            for trial in trials:
                measure(attempt, trial, again=how.get("again", 0))


def make_template(folder: Path) -> Path:
    """An empty tracking database; creating one takes seconds, copying it does not."""
    path = folder / "template.db"
    Tracker(f"sqlite:///{path}").prepare()
    return path


def tracker_at(template: Path) -> Callable[[Path], Tracker]:
    def make(folder: Path) -> Tracker:
        path = folder / "mlflow.db"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(template, path)
        tracker = Tracker(f"sqlite:///{path}")
        tracker.prepare()
        return tracker

    return make


def dump(tracker: Tracker, *, ids: bool = True) -> dict[str, Any]:
    """Everything in a store: runs with all tags, parameters, artifacts and every point of every metric."""
    store = tracker.store
    content: dict[str, Any] = {}
    for name in [*tracker.spaces(), "training"]:
        experiment = store.experiment(name)
        assert experiment is not None
        runs = store.runs(experiment)
        names = {run.id: run.name for run in runs}
        for run in runs:
            tags = dict(run.tags)
            if not ids:
                for tag in ("ablate.training_run_id", "ablate.plan_run_id"):
                    tags.pop(tag, None)
                tags.pop("mlflow.log-model.history", None)
            artifacts = sorted(file.path for file in store.client.list_artifacts(run.id))
            points = {metric: store.history(run.id, metric) for metric in run.metrics}
            label = run.id if ids else f"{name}/{run.name}/{run.tags.get('ablate.plan')}"
            assert label not in content, f"{names[run.id]} is there twice"
            content[label] = (run.name, run.status, run.start_ms, run.end_ms, tags, run.params, artifacts, points)
    return content


class Crash(BaseException):
    """The process dies here."""


def dying_clients(monkeypatch: pytest.MonkeyPatch, error: type[BaseException] = Crash) -> list[int]:
    """Have this process crash after a call of MLflow's clients: the one with which the returned number comes to 0.

    With another error it lives on without the answer.
    """
    left = [0]

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def dies(*arguments: Any, **named: Any) -> Any:
            answer = call(*arguments, **named)
            left[0] -= 1
            if left[0] == 0:
                raise error
            return answer

        return dies

    for name, call in vars(MlflowClient).items():
        if inspect.isfunction(call) and not name.startswith("_"):
            monkeypatch.setattr(MlflowClient, name, dying(call))
    return left
