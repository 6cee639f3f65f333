"""A plan deleted with what nothing else uses: first what that is, then the deed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.core.errors import StorageError
from ablate.core.redaction import redact
from ablate.report.next_steps import DEFAULT_STORE
from ablate.storage import plans
from ablate.storage.deletion import (
    delete_records,
    delete_training,
    record_files,
    replicas,
    training_files,
)
from ablate.storage.leases import Leases
from ablate.storage.plans import PlanFile
from ablate.storage.storage import Storage

if TYPE_CHECKING:
    from ablate.tracking.tracker import Tracker


@dataclass(frozen=True)
class Deletion:
    """What goes with a plan.

    Attributes:
        plan: Which.
        trainings: Keys of those that no other plan uses: with checkpoints, records, histories, logs and replications.
        shared: How many of its trainings others use too: they stay.
        records: Key of such a training -> measurements that this plan alone uses.
        weights: Digests of weights from elsewhere that no other training has.
        bytes: What all of it takes.
        runs: Ids of the plan's runs in MLflow.
    """

    plan: PlanFile
    trainings: tuple[str, ...]
    shared: int
    records: dict[str, frozenset[str]]
    weights: tuple[str, ...]
    bytes: int
    runs: tuple[str, ...] = ()


def store_of(uri: str | None) -> Tracker | None:
    """The MLflow store whose runs go too; none where nobody named one and the usual file is not there.

    Raises:
        TrackingError: It does not answer.
    """
    if uri is None and not os.environ.get("MLFLOW_TRACKING_URI") and not Path(DEFAULT_STORE).exists():
        return None
    from ablate.tracking.tracker import Tracker  # brings MLflow, which all else here does without

    tracker = Tracker(uri)
    tracker.prepare(create=False)
    return tracker


def what_goes(storage: Storage, plan: PlanFile, tracker: Tracker | None = None) -> Deletion:
    """What nothing but a plan uses.

    Args:
        storage: Where it is.
        plan: Which.
        tracker: Where its runs are, if anywhere.

    Raises:
        StorageError: A plan cannot be read, so that nobody knows what it uses.
    """
    unreadable: list[str] = []
    others = [file for file in plans.load_all(storage, unreadable.append) if file.id != plan.id]
    if unreadable:
        raise StorageError(f"--delete: expected plans that can all be read, or what they use may go; {unreadable[0]}")
    used = {key: {name for trial in trials for name in trial.measurements} for key, trials in plan.trainings().items()}
    elsewhere: dict[str, set[str]] = {}
    for trial in (trial for file in others for trial in file.trials):
        elsewhere.setdefault(trial.training, set()).update(trial.measurements)
    alone = tuple(key for key in used if key not in elsewhere)
    records = {}
    for key in used.keys() & elsewhere.keys():
        own = used[key] - elsewhere[key]
        if own & storage.view(key).records.keys():
            records[key] = frozenset(own)
    weights = _weights(storage, alone)
    size = sum(sum(training_files(storage, key).values()) for key in alone)
    size += sum(sum(training_files(inner, key).values()) for inner, key in replicas(storage, alone))
    size += sum(sum(record_files(storage, key, own).values()) for key, own in records.items())
    size += sum(storage.files.size(f"weights/{digest}") or 0 for digest in weights)
    runs = tuple(tracker.runs_of(plan, storage, alone)) if tracker is not None else ()
    return Deletion(plan, alone, len(used) - len(alone), records, weights, size, runs)


def _weights(storage: Storage, keys: Sequence[str]) -> tuple[str, ...]:
    """Weights from elsewhere that trainings alone name which are to go."""
    kept = storage.files.list("weights")
    if not kept:
        return ()
    going = set(keys)
    known = storage.keys()
    named = {key: storage.files.read(f"{key}/training.json") or b"" for key in known}
    mine = b"".join(text for key, text in named.items() if key in going)
    theirs = b"".join(text for key, text in named.items() if key not in going)
    return tuple(each for each in kept if (quoted := json.dumps(each).encode()) in mine and quoted not in theirs)


def delete(
    storage: Storage, plan: PlanFile, agree: Callable[[Deletion], bool], waiting: Callable[[], None],
    tracker: Tracker | None = None,
) -> Deletion | None:  # fmt: skip
    """Delete a plan, while no launch can take up what goes.

    Args:
        storage: Where it is.
        plan: Which.
        agree: Asked with what goes; nothing is deleted where it says no.
        waiting: Called once where it takes a while to tell whether a launch that holds something is alive.
        tracker: Where its runs are, if anywhere.

    Returns:
        What went; None where it was not agreed to.

    Raises:
        StorageError: A launch holds something of it, a plan cannot be read, or something cannot be deleted.
        TrackingError: MLflow does not answer.
    """
    _refuse_held(storage, plan, waiting)
    if not agree(what_goes(storage, plan, tracker)):
        return None
    with Leases(storage.files) as held:  # what begins meanwhile waits, as it would for a launch
        going = what_goes(storage, plan, tracker)
        for key in (f"plan-{plan.id}", f"search-{plan.id}", *going.trainings, *going.records):
            if not held.acquire_or_tell(key, waiting):
                raise _at_work(storage, plan, key)
        if tracker is not None:
            tracker.delete(going.runs)
        for key in going.trainings:
            for inner, each in replicas(storage, [key]):
                delete_training(inner, each)
            delete_training(storage, key)
        for key, own in going.records.items():
            delete_records(storage, key, own)
        for digest in going.weights:
            storage.files.delete(f"weights/{digest}")
        if plans.load(storage, plan.id).launched_ms == plan.launched_ms:  # a launch that came later wants it
            storage.files.delete(f"plans/{plan.id}.json")  # last: what was cut short is found again by it
        return going


def _refuse_held(storage: Storage, plan: PlanFile, waiting: Callable[[], None]) -> None:
    looking = Leases(storage.files)  # never entered: nothing is written before the user agrees
    for key in (f"plan-{plan.id}", f"search-{plan.id}", *plan.trainings()):
        if looking.alive_elsewhere(key, waiting):
            raise _at_work(storage, plan, key)


def _at_work(storage: Storage, plan: PlanFile, key: str) -> StorageError:
    where = redact(storage.location)
    return StorageError(
        f"--delete {plan.id}: expected no launch at work on it in {where}, got one that holds {key}; "
        "nothing was deleted"
    )
