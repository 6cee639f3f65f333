"""One training's content in storage -> its MLflow runs: curves, accuracies, artifacts, failures.

What has arrived is marked on the runs themselves (`ablate.synced_epoch`, `ablate.synced`), after the fact: whoever goes
on after a crash sends the rest, and the exact repeats in between are dropped by the store. Before anything is added to
a run it is compared with storage; one that differs is replaced by a new one (see `ablate.tracking.agreement`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

import numpy as np

from ablate.core.metric_names import OF_LAST_EPOCH
from ablate.core.text import now_ms
from ablate.spaces.metrics import scalar_of
from ablate.storage.checkpoints import load_state, save_network
from ablate.storage.plans import TrialPart
from ablate.storage.records import Record
from ablate.storage.status import TrainingStatus
from ablate.storage.storage import Storage
from ablate.tracking.agreement import (
    CURVES,
    DIGEST,
    REPLACES,
    SENT_FROM,
    SYNCED,
    SYNCED_EPOCH,
    artifact_digests,
    artifact_is_whole,
    curves_digest,
    digest_after,
    intact,
    replacement,
    same,
    take_over,
    upload,
    value_text,
)
from ablate.tracking.contents import TrainingContents
from ablate.tracking.identity import flat, mislabelled
from ablate.tracking.layout import PLACE, PLAN_RUN, row_parameters, unfold
from ablate.tracking.measurements import MEASUREMENTS, pack
from ablate.tracking.reading import BETWEEN, LACKING, TRAINING
from ablate.tracking.runs import (
    SYNCED_LAYOUT,
    Adopts,
    PlanRuns,
    data_inputs,
    data_tags,
    place,
    provenance_tags,
    synced,
    table_label,
)
from ablate.tracking.store import Point, Run, Store
from ablate.tracking.views import NOTE

NETWORKS = "ablate.networks"
"""Of a training: which networks are among its artifacts."""

SPEC = "spec.json"
"""A trial's artifact: all its settings."""

_TRAINING_STATES = {status: str(status) for status in TrainingStatus} | {TrainingStatus.MISSING: "training"}
_TRIAL_STATES = _TRAINING_STATES | {TrainingStatus.TRAINED: "measuring"}
"""What `ablate.state` says."""

NETWORK_LIMIT_BYTES = 256 * 2**20
"""A larger network stays in storage alone; the largest of the paper (WRN-34-10) has 185 MB."""

_UPLOADED = re.compile(r"[\w.]+")
"""A network's name among those that were uploaded; what was not has a reason behind it."""


def send(
    store: Store, opened: PlanRuns, storage: Storage, key: str, trials: Sequence[TrialPart], *, whole: bool = False
) -> bool:
    """Send what MLflow lacks of one training and of the trials that share it, and mend what differs from storage.

    Args:
        store: Where to.
        opened: The plan's runs; new ones are added.
        storage: Where from.
        key: The training's key.
        trials: Those of the plan that share it.
        whole: Whether whole curves and artifacts are compared; else latest values and digests are.

    Returns:
        Whether all of it was in storage, and so in MLflow now.
    """
    view = storage.view(key)
    if view.attempts == 0:
        return False  # what storage does not know it cannot contradict
    held = TrainingContents(storage, view)
    run = opened.trainings.get(key)
    # Nothing is read for what has arrived from these very files.
    unread = not whole and synced(run) and run is not None and run.tags.get(SENT_FROM) == held.curves_from
    if run is not None and not unread and not held.has_every_epoch:
        return False  # MLflow may show the epochs that damaged storage has lost
    if run is None and key in opened.nameless and _training_agrees(store, opened, opened.nameless[key], held, True):
        run = opened.trainings[key] = opened.nameless.pop(key)
    elif run is not None and not _training_agrees(store, opened, run, held, whole):
        run = opened.trainings[key] = replacement(store, run)
    if run is None:
        run = opened.trainings[key] = _training_run(store, opened, key, trials[0], held)
    store.log_data(run, data_inputs(trials[0])[:1])
    if not synced(run):
        _send_training(store, opened, run, held, trials[0])
    elif whole:
        _tell_training(store, opened, run, held, trials[0])
    elif run.tags.get(SENT_FROM) != held.curves_from:
        store.log(run, tags={SENT_FROM: held.curves_from})
    replaced = run.tags.get(REPLACES)
    if take_over(store, run):
        _tell(opened, TRAINING, run)
        for trial in opened.trials.values():
            if trial.tags.get("ablate.training_run_id") == replaced:
                trial.tags["ablate.training_run_id"] = run.id
    _point_to(store, opened, run, trials)
    done = [_send_trial(store, opened, run, held, trial, whole) for trial in trials]
    ended = view.status() in (TrainingStatus.FINISHED, TrainingStatus.STOPPED)
    return ended and (synced(run) or held.has_every_epoch) and all(done)


def _tell(opened: PlanRuns, experiment: str, run: Run) -> None:
    opened.repairs.append(f"{experiment}: {run.name}")


def _training_agrees(store: Store, opened: PlanRuns, run: Run, held: TrainingContents, whole: bool) -> bool:
    """Whether a training's run shows the beginning of what storage holds; if only that, it is sent again from there."""
    compare = whole and run.id not in opened.compared
    if opened.owns(run) and intact(run) and not compare:
        if synced(run) and run.tags.get(SENT_FROM) == held.curves_from:
            return True
        if run.tags.get(CURVES) == curves_digest(held.points(_sent_epoch(run))):
            return True
    known = {(p.name, p.step, p.timestamp_ms, value_text(p.value)) for p in held.points()}
    there = {
        (p.name, p.step, p.timestamp_ms, value_text(p.value))
        for metric in run.metrics
        for p in store.history(run.id, metric)
    }
    if not there <= known:
        return False
    opened.compared.add(run.id)
    kept = [f"networks/{name}.pt" for name in run.tags.get(NETWORKS, "").split(", ") if _UPLOADED.fullmatch(name)]
    if there != known or not (opened.owns(run) and intact(run)) or not _artifacts_whole(store, run, kept):
        run.tags.pop(SYNCED, None)  # here alone, so that it is sent once more; exact repeats are dropped
        run.tags.pop(SYNCED_EPOCH, None)
    return True


def _artifacts_whole(store: Store, run: Run, paths: Iterable[str]) -> bool:
    """Whether the artifacts of a run are those that were uploaded, byte for byte; `paths` must be among them."""
    digests = artifact_digests(run)
    return digests.keys() >= set(paths) and all(
        artifact_is_whole(run, path, store.download(run.id, path)) for path in digests
    )


def _sent_epoch(run: Run) -> int:
    epoch = run.tags.get(SYNCED_EPOCH, "")
    return int(epoch) if re.fullmatch(r"\d{1,9}", epoch) else -1


def adopts(storage: Storage) -> Adopts:
    """Whether runs of versions before, which name no storage, agree with one."""

    def agrees(run: Run, trial: TrialPart) -> bool | None:
        view = storage.view(trial.training)
        if view.attempts == 0:
            return None
        return _values_agree(run, _trial_points(TrainingContents(storage, view), trial))

    return agrees


def _values_agree(run: Run, points: Sequence[Point]) -> bool:
    """Whether every value of a run is among those that storage holds."""
    known = {point.name: point.value for point in points}
    return all(name in known and same(value, known[name]) for name, value in run.metrics.items())


def _mended(store: Store, run: Run) -> None:
    """A run says no more why it failed."""
    store.untag(run, "ablate.failure")
    store.untag(run, LACKING)


def _point_to(store: Store, opened: PlanRuns, training: Run, trials: Sequence[TrialPart]) -> None:
    """Trials that have everything still name a training's run that was deleted, or that another launch's replaced."""
    for trial in trials:
        run = opened.trials.get(place(trial))
        if run is not None and run.tags.get("ablate.training_run_id", training.id) != training.id:
            store.log(run, tags={"ablate.training_run_id": training.id})


def _training_run(store: Store, opened: PlanRuns, key: str, trial: TrialPart, whole: TrainingContents) -> Run:
    experiment = store.experiment(TRAINING, create=True)
    assert experiment is not None
    tags = {
        "ablate.training_key": key,
        **_training_identity(trial),
        **data_tags(trial),
        **provenance_tags(opened.plan.provenance),
        **opened.storage_tags,
    }
    name = f"{trial.spec['model']['arch']} · {trial.row} · seed {trial.seed} · {key[:6]}"
    start = min((entry["timestamp_ms"] for entry in whole.history), default=now_ms())
    return store.create(experiment, name, tags, start)


def _training_identity(trial: TrialPart) -> dict[str, str]:
    """What every launch says alike of a training; which data it measures with is each plan's own."""
    return {"ablate.kind": "training", "ablate.seed": str(trial.seed)}


def _send_training(store: Store, opened: PlanRuns, run: Run, whole: TrainingContents, trial: TrialPart) -> None:
    view = whole.view
    state = _tell_training(store, opened, run, whole, trial, _sent_epoch(run))
    if state == "finished":
        record = next((found for key in view.records if (found := whole.record(key)) is not None), None)
        # Not before something is measured: its record tells where it was trained.
        if record is not None and whole.has_every_epoch:
            kept = _send_networks(store, run, whole)
            store.log(run, tags={**_made(record), NETWORKS: kept, SYNCED: SYNCED_LAYOUT})


def _tell_training(
    store: Store, opened: PlanRuns, run: Run, whole: TrainingContents, trial: TrialPart, sent: int | None = None
) -> str:
    """Send a training's tags and status, and its curves after an epoch.

    Args:
        store: Where to.
        opened: The plan's runs.
        run: Of the training.
        whole: What storage holds of it.
        trial: One of those that share it.
        sent: The last epoch that has arrived; none: all have.
    """
    view = whole.view
    state = _TRAINING_STATES[view.status()]
    params = flat({name: value for name, value in trial.spec.items() if name != "measurement"})
    tags = {
        "ablate.state": state,
        "ablate.attempts": str(view.attempts),
        SENT_FROM: whole.curves_from,
        CURVES: curves_digest(whole.points()),
        DIGEST: digest_after(run, whole.points(), params),
        **_training_identity(trial),
        **opened.storage_tags,
    }
    if whole.history:
        tags[SYNCED_EPOCH] = str(whole.history[-1]["epoch"])
    if state == "failed":
        tags["ablate.failure"] = whole.reason
    store.log(run, [] if sent is None else [point for point in whole.points() if point.step > sent], params, tags)
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
    return state


def _send_networks(store: Store, run: Run, whole: TrainingContents) -> str:
    """The final networks as artifacts; once, after everything else, since they are large."""
    content, _ = whole.storage.checkpoint(whole.view.key)
    if content is None:
        return _take_networks(store, run, whole)
    state = load_state(content)
    if state["epoch"] < whole.view.epoch:
        return "none: its last checkpoint is damaged"
    networks = {"last": state["network"], **({"best": state["best"]["network"]} if state.get("best") else {})}
    # A name is part of a path there: ema:0.999@0 is the file ema_0.999_0.pt.
    networks |= {
        name.replace(":", "_").replace("@", "_"): each["network"] for name, each in state.get("kept", {}).items()
    }
    told = []
    for name, network in networks.items():
        kept = save_network(network)
        if len(kept) > NETWORK_LIMIT_BYTES:
            told.append(f"{name}: in storage alone ({len(kept) / 1e6:.0f} MB)")
            continue
        upload(store, run, f"networks/{name}.pt", kept)
        told.append(name)
    return ", ".join(told)


def _take_networks(store: Store, run: Run, whole: TrainingContents) -> str:
    """Without checkpoints: the networks that the run has, or the one that it replaces, if they are of this training."""
    gone = "none: its checkpoints were pruned"
    source = store.run(run.tags[REPLACES]) if REPLACES in run.tags else run
    if source is None or (source is not run and source.tags.get(SENT_FROM) != whole.curves_from):
        return gone
    told = []
    for path in artifact_digests(source):
        content = store.download(source.id, path)
        if content is not None and artifact_is_whole(source, path, content):
            if source is not run:
                upload(store, run, path, content)
            told.append(path.removeprefix("networks/").removesuffix(".pt"))
    return ", ".join(told) or gone


def _trial_points(whole: TrainingContents, trial: TrialPart) -> list[Point]:
    """Everything that a trial's run shows of what storage holds now."""
    points = []
    for metric, key in trial.columns.items():
        record = whole.record(key)
        if record is not None:
            points.append(Point(metric, record.scalars["accuracy"], whole.made_ms(record), 0))
    for name, key in trial.analyses.items():
        record = whole.record(key)
        if record is not None:
            made = whole.made_ms(record)
            points += [Point(scalar_of(name, each).run_name, value, made, 0) for each, value in record.scalars.items()]
    return points + _at_end(whole) if whole.view.finished and whole.has_every_epoch else points


def _trial_agrees(
    store: Store,
    opened: PlanRuns,
    run: Run,
    points: Sequence[Point],
    held: TrainingContents,
    trial: TrialPart,
    whole: bool,
) -> bool:
    """Whether a trial's run shows what storage holds and nothing else; if it lacks some, it is sent once more."""
    if not _values_agree(run, points) or mislabelled(run) is not None:
        return False
    compare = whole and run.id not in opened.compared
    if compare:
        known = {point.name: point for point in points}
        for name in run.metrics:
            values = store.history(run.id, name)
            if any(point.step != known[name].step or not same(point.value, known[name].value) for point in values):
                return False
        opened.compared.add(run.id)
    kept = [MEASUREMENTS, SPEC] if synced(run) else []
    trusted = opened.owns(run) and intact(run) and (not compare or _artifacts_whole(store, run, kept))
    if not trusted or run.tags.get(SENT_FROM) != held.trial_from(trial):
        run.tags.pop(SYNCED, None)  # here alone, so that it is sent once more
    return True


def _send_trial(
    store: Store, opened: PlanRuns, training: Run, held: TrainingContents, trial: TrialPart, whole: bool = False
) -> bool:
    view, where = held.view, place(trial)
    run = opened.trials.get(where)
    compare = whole and run is not None and run.id not in opened.compared
    trusted = run is not None and synced(run) and opened.owns(run) and intact(run) and not compare
    parent = opened.parents[trial.space].id
    links = {
        PLAN_RUN: parent,
        PLACE: opened.places[trial.space].get((trial.row, trial.seed), ""),
        "ablate.training_run_id": training.id,
    }
    if trusted and run is not None and run.tags.get(SENT_FROM) == held.trial_from(trial):
        unfold(store, run, parent)
        store.log_data(run, data_inputs(trial))
        store.log(run, tags=links)  # others where a run that it named was deleted or does not fit any more
        return True
    if run is not None and held.unreadable(trial):
        return False  # MLflow may show what damaged storage has lost
    points = _trial_points(held, trial)
    if run is None and where in opened.nameless:
        run = opened.nameless[where]
        if _trial_agrees(store, opened, run, points, held, trial, True):
            opened.trials[where] = opened.nameless.pop(where)
        else:
            run = None  # of another storage, or mixed: who knows
    elif run is not None and not _trial_agrees(store, opened, run, points, held, trial, whole):
        run = opened.trials[where] = replacement(store, run)
    if run is None:
        run = opened.trials[where] = _trial_run(store, opened, training, trial)
    unfold(store, run, parent)
    store.log_data(run, data_inputs(trial))
    state = _TRIAL_STATES[held.status(trial, to_the_end=opened.plan.space(trial.space).search is None)]
    complete, failed, stopped = state == "finished", state == "failed", state == "stopped"
    params = row_parameters(trial.row, str(trial.seed), opened.varying[trial.space], trial)
    tags = {
        "ablate.state": state,
        "ablate.attempts": str(view.attempts),
        **links,
        DIGEST: digest_after(run, points, params),
        SENT_FROM: held.trial_from(trial),
        **_trial_identity(opened, trial),
    }
    if failed:
        tags |= {"ablate.failure": held.reason_of(trial), LACKING: BETWEEN.join(trial.lacking(view))}
    if stopped:
        tags["ablate.stopped_epoch"] = str(view.stopped)
    present = held.records(trial) if failed or (complete and not synced(run)) else {}
    sent = run.tags.get(SENT_FROM) == held.trial_from(trial) and MEASUREMENTS in artifact_digests(run)
    if present and not (failed and sent):  # what was measured of a network is good, whatever else failed
        upload(store, run, SPEC, json.dumps(trial.spec, indent=1).encode())
        upload(store, run, MEASUREMENTS, pack(present))
        tags |= _made(next(iter(present.values())))
    if complete and present:
        tags |= {SYNCED: SYNCED_LAYOUT}
        # Ended before it is marked as having everything: a crash in between leaves something to send again.
        _mended(store, run)
        store.set_status(run, "FINISHED", max(held.made_ms(record) for record in present.values()))
    there = run.metrics
    store.log(run, [point for point in points if point.name not in there], params, tags)
    if failed:
        store.set_status(run, "FAILED", held.failed_ms)
    elif stopped:
        _mended(store, run)
        store.set_status(run, "KILLED", held.ended_ms)
    elif not complete:
        _mended(store, run)
        store.set_status(run, "RUNNING")
    if take_over(store, run):
        _tell(opened, trial.space, run)
    return complete or stopped


def _trial_identity(opened: PlanRuns, trial: TrialPart) -> dict[str, str]:
    """Which trial of which plan a run is; notes and the launch that made it are left to whoever wrote them first."""
    return {
        "ablate.kind": "trial",
        "ablate.source": "reproduced",
        "ablate.plan": opened.plan.id,
        "ablate.space": trial.space,
        "ablate.row": trial.row,
        "ablate.table": table_label(opened.plan.space(trial.space)),
        "ablate.seed": str(trial.seed),
        "ablate.preset": opened.plan.preset,
        "ablate.training_key": trial.training,
        **data_tags(trial),
        **opened.storage_tags,
    }


def _trial_run(store: Store, opened: PlanRuns, training: Run, trial: TrialPart) -> Run:
    plan, space, parent = opened.plan, opened.plan.space(trial.space), opened.parents[trial.space]
    note = next((row.note for row in space.rows if row.label == trial.row and row.note), None)
    tags = {
        PLAN_RUN: parent.id,
        **_trial_identity(opened, trial),
        **({NOTE: note} if note else {}),
        **provenance_tags(plan.provenance),
    }
    return store.create(parent.experiment, f"{trial.row} · seed {trial.seed}", tags, training.start_ms)


def _at_end(whole: TrainingContents) -> list[Point]:
    """The last epoch's energies, which a trial's own run shows too."""
    last = whole.history[-1] if whole.history else {"metrics": {}}
    return [
        Point(name, float(value), last["timestamp_ms"], last["epoch"])
        for name, value in last["metrics"].items()
        if name.startswith(OF_LAST_EPOCH) and np.isfinite(value)
    ]


def _made(record: Record) -> dict[str, str]:
    """Where and with what a training's worker ran."""
    names = ("device", "threads", "torch", "python")
    return {f"ablate.{name}": str(record.meta[name]) for name in names if name in record.meta}
