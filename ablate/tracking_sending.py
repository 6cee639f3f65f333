"""One training's content in storage -> its MLflow runs: curves, accuracies, artifacts, failures.

What has arrived is marked on the runs themselves (`ablate.synced_epoch`, `ablate.synced`), after the fact: whoever goes
on after a crash sends the rest, and the exact repeats in between are dropped by the store.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ablate import tracked
from ablate.plan_file import PlanFile, TrialPart
from ablate.storage import Record, Storage, TrainingView
from ablate.tracking_runs import (
    SYNCED_LAYOUT,
    TRAINING,
    PlanRuns,
    data_tags,
    now_ms,
    place,
    provenance_tags,
    synced,
    table_label,
)
from ablate.tracking_store import Point, Run, Store

NETWORK_LIMIT_BYTES = 256 * 2**20
"""A larger network stays in storage alone; the largest of the paper (WRN-34-10) has 185 MB."""

_CARRIED = ("energy/", "fat/")
"""Metrics of the last epoch that belong into the table's runs too."""


def send(store: Store, opened: PlanRuns, storage: Storage, key: str, trials: Sequence[TrialPart]) -> bool:
    """Send what MLflow lacks of one training and of the trials that share it.

    Args:
        store: Where to.
        opened: The plan's runs; new ones are added.
        storage: Where from.
        key: The training's key.
        trials: Those of the plan that share it.

    Returns:
        Whether all of it was in storage, and so in MLflow now.
    """
    run = opened.trainings.get(key)
    waiting = [t for t in trials if not synced(opened.trials.get(place(t)))]
    if run is not None:
        _point_to(store, opened, run, trials)
    if synced(run) and not waiting:
        return True
    view = storage.view(key)
    if view.attempts == 0:
        return False
    whole = _Whole(storage, view)
    if run is None:
        run = opened.trainings[key] = _training_run(store, opened.plan, key, trials[0], whole)
    if not synced(run):
        _send_training(store, run, whole, trials[0])
        _point_to(store, opened, run, trials)
    done = [_send_trial(store, opened, run, whole, trial) for trial in waiting]
    return (view.finished or view.stopped is not None) and all(done)


def _point_to(store: Store, opened: PlanRuns, training: Run, trials: Sequence[TrialPart]) -> None:
    """Trials that have everything still name a training's run that was deleted, or that another launch's replaced."""
    for trial in trials:
        run = opened.trials.get(place(trial))
        if run is not None and run.tags.get("ablate.training_run_id", training.id) != training.id:
            store.log(run, tags={"ablate.training_run_id": training.id})


def _training_run(store: Store, plan: PlanFile, key: str, trial: TrialPart, whole: _Whole) -> Run:
    experiment = store.experiment(TRAINING, create=True)
    assert experiment is not None
    tags = {
        "ablate.kind": "training",
        "ablate.training_key": key,
        "ablate.seed": str(trial.seed),
        **data_tags(trial),
        **provenance_tags(plan.provenance),
    }
    name = f"{trial.spec['model']['arch']} · {trial.row} · seed {trial.seed} · {key[:6]}"
    start = min((entry["timestamp_ms"] for entry in whole.history), default=now_ms())
    return store.create(experiment, name, tags, start)


def _send_training(store: Store, run: Run, whole: _Whole, trial: TrialPart) -> None:
    view = whole.view
    sent = int(run.tags.get("ablate.synced_epoch", -1))
    new = [entry for entry in whole.history if entry["epoch"] > sent] if view.epoch > sent else []
    points = [
        Point(name, float(value), entry["timestamp_ms"], entry["epoch"])
        for entry in new
        for name, value in entry["metrics"].items()
    ]
    state = "finished" if view.finished else "failed" if view.failure else "training"
    state = "stopped" if state == "training" and view.stopped is not None else state
    tags = {"ablate.state": state, "ablate.attempts": str(view.attempts)}
    if new:
        tags["ablate.synced_epoch"] = str(new[-1]["epoch"])
    if state == "failed":
        tags["ablate.failure"] = whole.reason
    spec = {name: value for name, value in trial.spec.items() if name != "measurement"}
    store.log(run, points, flat(spec), tags)
    if state == "training":
        store.untag(run, "ablate.failure")
        store.set_status(run, "RUNNING")
    elif state == "failed":
        store.set_status(run, "FAILED", whole.failed_ms)
    elif state == "stopped":
        store.set_status(run, "KILLED", whole.ended_ms)
    else:
        store.untag(run, "ablate.failure")
        store.set_status(run, "FINISHED", whole.ended_ms)
        record = next((found for key in view.records if (found := whole.record(key)) is not None), None)
        if record is not None:  # not before something is measured: its record tells where it was trained
            kept = _send_networks(store, run, whole)
            store.log(run, tags={**_made(record), "ablate.networks": kept, "ablate.synced": SYNCED_LAYOUT})


def _send_networks(store: Store, run: Run, whole: _Whole) -> str:
    """The final networks as artifacts; once, after everything else, since they are large."""
    content, _ = whole.storage.checkpoint(whole.view.key)
    if content is None:
        return "none: its checkpoints were pruned"
    import torch

    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    networks = {"last": state["network"], **({"best": state["best"]["network"]} if state.get("best") else {})}
    told = []
    for name, network in networks.items():
        stream = io.BytesIO()
        torch.save(network, stream)
        if len(stream.getvalue()) > NETWORK_LIMIT_BYTES:
            told.append(f"{name}: in storage alone ({len(stream.getvalue()) / 1e6:.0f} MB)")
            continue
        store.upload(run, f"networks/{name}.pt", stream.getvalue())
        told.append(name)
    return ", ".join(told)


def _send_trial(store: Store, opened: PlanRuns, training: Run, whole: _Whole, trial: TrialPart) -> bool:
    view = whole.view
    run = opened.trials.get(place(trial))
    if run is None:
        run = opened.trials[place(trial)] = _trial_run(store, opened, training, trial)
    points = []
    for metric, key in trial.columns.items():
        record = whole.record(key) if metric not in run.metrics else None
        if record is not None:
            points.append(Point(metric, record.scalars["accuracy"], whole.made_ms(record), 0))
    there = view.finished and trial.measurements <= view.records.keys()
    complete = there and all(whole.record(key) is not None for key in trial.measurements)
    failed = view.failure is not None and not complete
    state = "finished" if complete else "failed" if failed else "measuring" if view.finished else "training"
    stopped = state == "training" and view.stopped is not None and opened.plan.space(trial.space).search is not None
    state = "stopped" if stopped else state
    tags = {
        "ablate.state": state,
        "ablate.attempts": str(view.attempts),
        "ablate.training_run_id": training.id,  # another one where a training's run was deleted in the UI
    }
    if failed:
        tags["ablate.failure"] = whole.reason
    if stopped:
        tags["ablate.stopped_epoch"] = str(view.stopped)
    if complete:
        records = {name: whole.record(key) for name, key in {**trial.columns, **trial.analyses}.items()}
        present = {name: record for name, record in records.items() if record is not None}
        points += _scalars(present, trial, whole)
        store.upload(run, "spec.json", json.dumps(trial.spec, indent=1).encode())
        store.upload(run, tracked.MEASUREMENTS, tracked.pack(present))
        tags |= {**_made(next(iter(present.values()))), "ablate.synced": SYNCED_LAYOUT}
        # Ended before it is marked as having everything: a crash in between leaves something to send again.
        store.untag(run, "ablate.failure")
        store.set_status(run, "FINISHED", max(whole.made_ms(record) for record in present.values()))
    store.log(run, points, flat(trial.spec), tags)
    if failed:
        store.set_status(run, "FAILED", whole.failed_ms)
    elif stopped:
        store.untag(run, "ablate.failure")
        store.set_status(run, "KILLED", whole.ended_ms)
    elif not complete:
        store.untag(run, "ablate.failure")
        store.set_status(run, "RUNNING")
    return complete or stopped


def _trial_run(store: Store, opened: PlanRuns, training: Run, trial: TrialPart) -> Run:
    plan, space, parent = opened.plan, opened.plan.space(trial.space), opened.parents[trial.space]
    note = next((row.note for row in space.rows if row.label == trial.row and row.note), None)
    tags = {
        "ablate.kind": "trial",
        "ablate.source": "reproduced",
        "ablate.plan": plan.id,
        "ablate.space": trial.space,
        "ablate.row": trial.row,
        "ablate.table": table_label(space),
        "ablate.seed": str(trial.seed),
        "ablate.preset": plan.preset,
        "ablate.training_key": trial.training,
        "mlflow.parentRunId": parent.id,
        **data_tags(trial),
        **({"mlflow.note.content": note} if note else {}),
        **provenance_tags(plan.provenance),
    }
    return store.create(parent.experiment, f"{trial.row} · seed {trial.seed}", tags, training.start_ms)


class _Whole:
    """One training's content in storage, each part read once, when it is wanted."""

    def __init__(self, storage: Storage, view: TrainingView) -> None:
        self.storage = storage
        self.view = view
        self._history: list[dict[str, Any]] | None = None
        self._records: dict[str, Record | None] = {}

    @property
    def history(self) -> list[dict[str, Any]]:
        if self._history is None:
            self._history = self.storage.history(self.view.key)
        return self._history

    def record(self, key: str) -> Record | None:
        if key not in self._records:
            self._records[key] = self.storage.record(self.view, key)
        return self._records[key]

    @property
    def ended_ms(self) -> int:
        """When the last epoch ended: the same on every sync, unlike now."""
        return int(self.history[-1]["timestamp_ms"]) if self.history else 0

    @property
    def failed_ms(self) -> int:
        return int((self.view.failure or {}).get("timestamp_ms", self.ended_ms))

    @property
    def reason(self) -> str:
        return str((self.view.failure or {}).get("reason", "unknown"))

    def made_ms(self, record: Record) -> int:
        return int(record.meta.get("timestamp_ms", self.ended_ms))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted path, as text.

    Args:
        settings: As of `TrialSpec.model_dump`.
        prefix: Before each path.

    Returns:
        Path -> value; lists as JSON, none as `none`.
    """
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            plain = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
            found[f"{prefix}{name}"] = plain
    return found


def _scalars(records: Mapping[str, Record], trial: TrialPart, whole: _Whole) -> list[Point]:
    """What analyses found, and the last epoch's energies, on the trial's own run."""
    points = []
    for name in trial.analyses:
        if name not in records:
            continue
        best = name.endswith("_best")
        for scalar, value in records[name].scalars.items():
            points.append(Point(f"best/{scalar}" if best else scalar, value, whole.made_ms(records[name]), 0))
    last = whole.history[-1] if whole.history else {"metrics": {}}
    for name, value in last["metrics"].items():
        if name.startswith(_CARRIED) and np.isfinite(value):
            points.append(Point(name, float(value), last["timestamp_ms"], last["epoch"]))
    return points


def _made(record: Record) -> dict[str, str]:
    """Where and with what a training's worker ran."""
    names = ("device", "threads", "torch", "python")
    return {f"ablate.{name}": str(record.meta[name]) for name in names if name in record.meta}
