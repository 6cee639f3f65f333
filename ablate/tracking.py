"""Storage -> MLflow: every number, once, with its own time.

Storage is the truth and MLflow its view: `sync` sends what MLflow lacks, and sending again changes nothing. A launch's
driver is the only writer. What has arrived is marked on the runs themselves (`ablate.synced`), so that a relaunch of a
thousand finished trainings reads none of them again, and so that any machine can go on where another one stopped.

    experiment `training`     a run per training (tag ablate.training_key): curves, final networks
    experiment <space>        a run per plan (tag ablate.kind=plan, artifact plan.json); below it a run per trial
                              (`512 · seed 0`) and per published row (`512 · published`)
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ablate import tracked
from ablate.background import BackgroundSync as BackgroundSync
from ablate.errors import TrackingError, UserError
from ablate.plan_file import PlanFile, RowPart, SpacePart, TrialPart, from_plan
from ablate.storage import Record, Storage, TrainingView
from ablate.tracking_store import Point, Run, ServerAway, Store

if TYPE_CHECKING:
    from ablate.planning import Plan

TRAINING, REPORT = "training", "report"
"""The experiments of trainings and of report pages."""

SYNCED_LAYOUT = "1"
"""What `ablate.synced` says of a run that has everything; raise it to have all runs sent again."""

NETWORK_LIMIT_BYTES = 256 * 2**20
"""A larger network stays in storage alone; the largest of the paper (WRN-34-10) has 185 MB."""

SEARCHED_ONE_BY_ONE = 50
"""Up to so many trainings are looked up by their keys; for more the experiment is read as a whole."""

_CARRIED = ("energy/", "fat/")
"""Metrics of the last epoch that belong into the table's runs too."""


@dataclass
class _Opened:
    """A plan's runs, as far as they exist."""

    plan: PlanFile
    parents: dict[str, Run]
    trials: dict[tuple[str, str, int], Run] = field(default_factory=dict)
    published: dict[tuple[str, str], Run] = field(default_factory=dict)
    trainings: dict[str, Run] = field(default_factory=dict)


class Tracker:
    """Writes plans and their results to one MLflow store, and reads them back.

    Args:
        uri: Tracking URI; none: `MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db` in the working directory, with
            artifacts in `mlartifacts` beside it.

    Raises:
        TrackingError: The URI cannot be used.
    """

    def __init__(self, uri: str | None = None) -> None:
        self._store = Store(uri)
        self._opened: dict[str, _Opened] = {}

    @property
    def uri(self) -> str:
        """The tracking URI, without any password."""
        return self._store.shown

    @property
    def remote(self) -> bool:
        """Whether the store is a server, which other machines may reach."""
        return self._store.remote

    def prepare(self, create: bool = True) -> None:
        """Create or migrate the store, before anything else uses it; arguments as of `Store.prepare`."""
        self._store.prepare(create)

    def open_plan(self, plan: Plan | PlanFile, provenance: Mapping[str, str] | None = None) -> None:
        """Find a plan's runs, or create them; the same plan has the same runs, whoever launches it and from where.

        Args:
            plan: The plan, or what storage kept of it.
            provenance: Commit, versions, command; as of `plan_file.from_plan`.

        Raises:
            TrackingError: The store does not take it.
        """
        file = from_plan(plan, provenance)
        self._opened[file.id] = self._open(file)

    def sync(self, plan: Plan | PlanFile, storage: Storage, keys: Iterable[str] | None = None) -> list[str]:
        """Send MLflow what it lacks of a plan.

        Args:
            plan: The plan, opened or not.
            storage: Where its results are.
            keys: Only these trainings; none: all, and the published rows.

        Returns:
            Keys of trainings that storage does not hold as a whole (yet), failed ones included.

        Raises:
            ServerAway: The store stopped answering.
            TrackingError: Something of a training was refused; the others were sent.
        """
        opened = self._opened.get(plan.id)
        if opened is None:
            self.open_plan(plan)
            opened = self._opened[plan.id]
        if keys is None:
            self._publish(opened)
        shared = opened.plan.trainings()
        unfinished: list[str] = []
        problem: UserError | None = None
        for key in shared if keys is None else [key for key in keys if key in shared]:
            try:
                if not self._sync_training(opened, storage, key, shared[key]):
                    unfinished.append(key)
            except ServerAway:
                raise
            except UserError as error:  # storage's or MLflow's about this one
                problem = error
                unfinished.append(key)
        if problem is not None:
            del self._opened[plan.id]  # a run may have been deleted behind our back: look again next time
            raise TrackingError(str(problem)) from problem
        self._settle_parents(opened)
        self._store.flush() if keys is None else None
        return unfinished

    def interrupt(self, plan: Plan | PlanFile) -> None:
        """Mark a plan's unfinished runs as stopped, so that MLflow does not show them as running for ever.

        Args:
            plan: An opened plan; launching it again lets its runs go on.
        """
        opened = self._opened.get(plan.id)
        if opened is None:
            return
        now = _now_ms()
        for run in (*opened.parents.values(), *opened.trials.values(), *opened.trainings.values()):
            if run.status == "RUNNING":
                self._store.set_status(run, "KILLED", now)

    def list_plans(self, space: str) -> list[tracked.PlanInfo]:
        """Plans of a space, the one launched last first; see `tracked.list_plans`."""
        return tracked.list_plans(self._store, space)

    def read_plan(self, space: str, plan_id: str | None = None) -> tracked.PlanResults:
        """Results of one plan of a space; see `tracked.read_plan`."""
        return tracked.read_plan(self._store, space, plan_id)

    def spaces(self) -> list[str]:
        """Names of the experiments of spaces."""
        return [name for name in self._store.experiments() if name not in (TRAINING, REPORT, "Default")]

    def log_report(self, name: str, files: Mapping[str, bytes], tags: Mapping[str, str] | None = None) -> str:
        """Keep a report's files as artifacts of a run of the experiment `report`.

        Args:
            name: The run's name.
            files: Path among the artifacts -> content.
            tags: What the report is about.

        Returns:
            The run's id.
        """
        experiment = self._store.experiment(REPORT, create=True)
        assert experiment is not None
        run = self._store.create(experiment, name, {"ablate.kind": "report", **(tags or {})}, _now_ms())
        for path, content in files.items():
            self._store.upload(run, path, content)
        self._store.set_status(run, "FINISHED", _now_ms())
        return run.id

    # -- opening -------------------------------------------------------------------------------------------------

    def _open(self, file: PlanFile) -> _Opened:
        store, opened = self._store, _Opened(file, {})
        for space in file.spaces:
            if space.name in (TRAINING, REPORT):
                raise TrackingError(f"expected a space that is not named as an experiment of ours, got {space.name!r}")
            experiment = store.experiment(space.name, create=True)
            assert experiment is not None
            runs = self._once(store.runs(experiment, {"ablate.plan": file.id}), _identity)
            for run in runs:
                tags = run.tags
                match tags.get("ablate.kind"):
                    case "plan":
                        opened.parents[space.name] = run
                    case "trial":
                        opened.trials[space.name, tags["ablate.row"], int(tags["ablate.seed"])] = run
                    case "published":
                        opened.published[space.name, tags["ablate.row"]] = run
            opened.parents[space.name] = self._parent(file, space, experiment, opened.parents.get(space.name))
        keys = set(file.trainings())
        experiment = store.experiment(TRAINING, create=True)
        assert experiment is not None
        if len(keys) <= SEARCHED_ONE_BY_ONE:
            found = [run for key in sorted(keys) for run in store.runs(experiment, {"ablate.training_key": key})]
        else:
            found = [run for run in store.runs(experiment) if run.tags.get("ablate.training_key") in keys]
        for run in self._once(found, _identity):
            opened.trainings[run.tags["ablate.training_key"]] = run
        return opened

    def _once(self, runs: list[Run], identity: Any) -> list[Run]:
        """One run of each identity: two launches at once can each have created one, and all keep the same."""
        kept: dict[Any, Run] = {}
        for run in sorted(runs, key=lambda run: (run.tags.get("ablate.synced") is None, run.start_ms, run.id)):
            if identity(run) in kept:
                self._store.delete(run)
            else:
                kept[identity(run)] = run
        return list(kept.values())

    def _parent(self, file: PlanFile, space: SpacePart, experiment: str, run: Run | None) -> Run:
        part = file.of_space(space.name)
        name = f"{space.name} · {file.preset} · {file.id}"
        tags = {
            "ablate.kind": "plan",
            "ablate.plan": file.id,
            "ablate.space": space.name,
            "ablate.preset": file.preset,
            "ablate.seeds": ", ".join(str(seed) for seed in file.seeds),
            "ablate.data": ", ".join(dict.fromkeys(trial.data.label for trial in part.trials)),
            "ablate.overrides": " ".join(file.overrides),
            "ablate.launched_ms": str(file.launched_ms),
            "ablate.table": _label(space),
            "mlflow.note.content": "\n\n".join(text for text in (f"**{space.title}**", space.description) if text),
            **_provenance(file.provenance),
        }
        if run is None:
            run = self._store.create(experiment, name, tags, file.created_ms)
        elif int(run.tags.get("ablate.launched_ms", 0)) <= file.launched_ms:
            self._store.log(run, tags=tags)
        if run.status != "FINISHED":
            self._store.set_status(run, "RUNNING")
        self._store.upload(run, tracked.PLAN, part.to_json().encode())
        return run

    def _publish(self, opened: _Opened) -> None:
        for space in opened.plan.spaces:
            parent = opened.parents[space.name]
            for row in space.rows:
                if row.published:
                    self._publish_row(opened, space, row, parent)

    def _publish_row(self, opened: _Opened, space: SpacePart, row: RowPart, parent: Run) -> None:
        run = opened.published.get((space.name, row.label))
        if run is None:
            tags = {
                "ablate.kind": "published",
                "ablate.source": "published",
                "ablate.plan": opened.plan.id,
                "ablate.space": space.name,
                "ablate.row": row.label,
                "ablate.table": _label(space),
                "mlflow.parentRunId": parent.id,
            }
            run = self._store.create(parent.experiment, f"{row.label} · published", tags, opened.plan.created_ms)
            opened.published[space.name, row.label] = run
        points = [
            Point(f"accuracy/{name}", value, run.start_ms, 0)
            for name, value in row.published.items()
            if run.metrics.get(f"accuracy/{name}") != value
        ]
        self._store.log(run, points)
        self._store.set_status(run, "FINISHED", run.start_ms)

    # -- sending -------------------------------------------------------------------------------------------------

    def _sync_training(self, opened: _Opened, storage: Storage, key: str, trials: list[TrialPart]) -> bool:
        run = opened.trainings.get(key)
        waiting = [t for t in trials if not _synced(opened.trials.get((t.space, t.row, t.seed)))]
        if _synced(run) and not waiting:
            return True
        view = storage.view(key)
        if view.attempts == 0:
            return False
        whole = _Whole(storage, view)
        if run is None:
            run = opened.trainings[key] = self._training_run(opened.plan, key, trials[0], whole)
        if not _synced(run):
            self._send_training(run, whole, trials[0])
        done = [self._send_trial(opened, run, whole, trial) for trial in waiting]
        return view.finished and all(done)

    def _training_run(self, plan: PlanFile, key: str, trial: TrialPart, whole: _Whole) -> Run:
        experiment = self._store.experiment(TRAINING, create=True)
        assert experiment is not None
        tags = {
            "ablate.kind": "training",
            "ablate.training_key": key,
            "ablate.seed": str(trial.seed),
            **_data(trial),
            **_provenance(plan.provenance),
        }
        name = f"{trial.spec['model']['arch']} · {trial.row} · seed {trial.seed} · {key[:6]}"
        start = min((entry["timestamp_ms"] for entry in whole.history), default=_now_ms())
        return self._store.create(experiment, name, tags, start)

    def _send_training(self, run: Run, whole: _Whole, trial: TrialPart) -> None:
        store, view = self._store, whole.view
        sent = int(run.tags.get("ablate.synced_epoch", -1))
        new = [entry for entry in whole.history if entry["epoch"] > sent] if view.epoch > sent else []
        points = [
            Point(name, float(value), entry["timestamp_ms"], entry["epoch"])
            for entry in new
            for name, value in entry["metrics"].items()
        ]
        state = "finished" if view.finished else "failed" if view.failure else "training"
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
        else:
            store.untag(run, "ablate.failure")
            store.set_status(run, "FINISHED", whole.ended_ms)
            record = next((found for key in view.records if (found := whole.record(key)) is not None), None)
            if record is not None:  # not before something is measured: its record tells where it was trained
                kept = self._send_networks(run, whole)
                store.log(run, tags={**_made(record), "ablate.networks": kept, "ablate.synced": SYNCED_LAYOUT})

    def _send_networks(self, run: Run, whole: _Whole) -> str:
        """The final networks as artifacts; once, after everything else, since they are large."""
        found = whole.storage.checkpoint(whole.view.key)
        if found is None:
            return "none: its checkpoints were pruned"
        import torch

        state = torch.load(io.BytesIO(found[0]), map_location="cpu", weights_only=True)
        networks = {"last": state["network"], **({"best": state["best"]["network"]} if state.get("best") else {})}
        told = []
        for name, network in networks.items():
            stream = io.BytesIO()
            torch.save(network, stream)
            if len(stream.getvalue()) > NETWORK_LIMIT_BYTES:
                told.append(f"{name}: in storage alone ({len(stream.getvalue()) / 1e6:.0f} MB)")
                continue
            self._store.upload(run, f"networks/{name}.pt", stream.getvalue())
            told.append(name)
        return ", ".join(told)

    def _send_trial(self, opened: _Opened, training: Run, whole: _Whole, trial: TrialPart) -> bool:
        store, view, place = self._store, whole.view, (trial.space, trial.row, trial.seed)
        run = opened.trials.get(place)
        if run is None:
            run = opened.trials[place] = self._trial_run(opened, training, trial)
        points = []
        for metric, key in trial.columns.items():
            record = whole.record(key) if metric not in run.metrics else None
            if record is not None:
                points.append(Point(metric, record.scalars["accuracy"], whole.made_ms(record), 0))
        there = view.finished and trial.measurements <= view.records.keys()
        complete = there and all(whole.record(key) is not None for key in trial.measurements)
        failed = view.failure is not None and not complete
        state = "finished" if complete else "failed" if failed else "measuring" if view.finished else "training"
        tags = {
            "ablate.state": state,
            "ablate.attempts": str(view.attempts),
            "ablate.training_run_id": training.id,  # another one where a training's run was deleted in the UI
        }
        if failed:
            tags["ablate.failure"] = whole.reason
        if complete:
            records = {name: whole.record(key) for name, key in {**trial.columns, **trial.analyses}.items()}
            present = {name: record for name, record in records.items() if record is not None}
            points += _scalars(present, trial, whole)
            store.upload(run, "spec.json", json.dumps(trial.spec, indent=1).encode())
            store.upload(run, tracked.MEASUREMENTS, tracked.pack(present))
            tags |= _made(next(iter(present.values())))
        store.log(run, points, flat(trial.spec), tags)
        if failed:
            store.set_status(run, "FAILED", whole.failed_ms)
            return False
        store.untag(run, "ablate.failure")
        if not complete:
            store.set_status(run, "RUNNING")
            return False
        store.set_status(run, "FINISHED", max(point.timestamp_ms for point in points) if points else whole.ended_ms)
        store.log(run, tags={"ablate.synced": SYNCED_LAYOUT})
        return True

    def _trial_run(self, opened: _Opened, training: Run, trial: TrialPart) -> Run:
        plan, space, parent = opened.plan, opened.plan.space(trial.space), opened.parents[trial.space]
        note = next((row.note for row in space.rows if row.label == trial.row and row.note), None)
        tags = {
            "ablate.kind": "trial",
            "ablate.source": "reproduced",
            "ablate.plan": plan.id,
            "ablate.space": trial.space,
            "ablate.row": trial.row,
            "ablate.table": _label(space),
            "ablate.seed": str(trial.seed),
            "ablate.preset": plan.preset,
            "ablate.training_key": trial.training,
            "mlflow.parentRunId": parent.id,
            **_data(trial),
            **({"mlflow.note.content": note} if note else {}),
            **_provenance(plan.provenance),
        }
        return self._store.create(parent.experiment, f"{trial.row} · seed {trial.seed}", tags, training.start_ms)

    def _settle_parents(self, opened: _Opened) -> None:
        for space in opened.plan.spaces:
            parts = [trial for trial in opened.plan.trials if trial.space == space.name]
            runs = [opened.trials.get((trial.space, trial.row, trial.seed)) for trial in parts]
            states = {"waiting" if run is None else run.tags.get("ablate.state", "training") for run in runs}
            if states <= {"finished", "failed"}:
                ended = max((run.end_ms or 0 for run in runs if run is not None), default=0) or _now_ms()
                self._store.set_status(
                    opened.parents[space.name], "FAILED" if "failed" in states else "FINISHED", ended
                )


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


def _identity(run: Run) -> tuple[str | None, ...]:
    names = ("ablate.kind", "ablate.plan", "ablate.row", "ablate.seed", "ablate.training_key")
    return tuple(run.tags.get(name) for name in names)


def _synced(run: Run | None) -> bool:
    return run is not None and run.tags.get("ablate.synced") == SYNCED_LAYOUT


def _label(space: SpacePart) -> str:
    return "none" if space.table is None else str(space.table)


def _data(trial: TrialPart) -> dict[str, str]:
    return {
        "ablate.data": trial.data.label,
        "ablate.data.train_digest": trial.data.train_digest,
        "ablate.data.test_digest": trial.data.test_digest,
    }


def _provenance(found: Mapping[str, str]) -> dict[str, str]:
    tags = {f"ablate.launch.{name}": value for name, value in found.items()}
    if "git_commit" in found:
        tags["mlflow.source.git.commit"] = found["git_commit"]
        tags["ablate.git_commit"] = found["git_commit"]
    return tags


def _made(record: Record) -> dict[str, str]:
    """Where and with what a training's worker ran."""
    names = ("device", "threads", "torch", "python")
    return {f"ablate.{name}": str(record.meta[name]) for name in names if name in record.meta}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
