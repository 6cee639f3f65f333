"""What ties a run to the storage it was sent from, and how a run that no longer agrees with it is found.

Every run that is filled from storage carries tags:

ablate.storage      id of the storage it shows (`Storage.identify`); runs of versions before have none
ablate.digest       over the names and latest values of its metrics, and its parameters, as they were sent
ablate.curves       of a training: a digest of each metric's whole curve, in the order of the metrics' names
ablate.sent_from    checksums of the files in storage that it was sent from
ablate.artifacts    path -> digest of each artifact that numbers or networks are read from
ablate.replaces     id of the run that this one takes the place of, while it is not whole

MLflow cannot change a value, a point or a parameter once it is logged, and shows the latest by (step, timestamp,
value): whatever differs from storage is mended by a new run. The digests guard against mistakes, not against somebody
who edits a value and its digest: only storage, which `--sync` compares with, helps against that.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Mapping

from ablate.tracking.store import VALUE, Point, Run, Store

STORAGE, DIGEST, CURVES = "ablate.storage", "ablate.digest", "ablate.curves"
SENT_FROM, ARTIFACTS, REPLACES = "ablate.sent_from", "ablate.artifacts", "ablate.replaces"

SYNCED, SYNCED_EPOCH = "ablate.synced", "ablate.synced_epoch"
OWN = (DIGEST, CURVES, SENT_FROM, ARTIFACTS, REPLACES, SYNCED, SYNCED_EPOCH, "mlflow.log-model.history")
"""Tags that a run which takes another one's place does not take over."""

_CURVE_DIGITS = 8


def value_text(value: float) -> str:
    """A number as a store gives it back: infinity is kept as the largest number there is."""
    if math.isnan(value):
        return "nan"
    return repr(float(min(max(value, -sys.float_info.max), sys.float_info.max)))


def same(one: float, other: float) -> bool:
    """Whether two numbers are the same for a store."""
    return value_text(one) == value_text(other)


def digest_of(metrics: Mapping[str, float], params: Mapping[str, str]) -> str:
    """Of the names and latest values of metrics, and of parameters."""
    return _sum([sorted((name, value_text(value)) for name, value in metrics.items()), sorted(params.items())])


def digest_after(run: Run, points: Iterable[Point], params: Mapping[str, str]) -> str:
    """The digest of a run once it has been sent some more.

    Args:
        run: As it is.
        points: In the order of their steps.
        params: Parameters; one that is there already stays as it is.
    """
    metrics = {**run.metrics, **{point.name: point.value for point in points}}
    return digest_of(metrics, {**{name: value[:VALUE] for name, value in params.items()}, **run.params})


def bytes_digest(content: bytes) -> str:
    """Of an artifact."""
    return hashlib.sha256(content).hexdigest()[:20]


def files_digest(checksums: Iterable[object]) -> str:
    """Of the checksums of files in storage, for `ablate.sent_from`."""
    return _sum(list(checksums))


def curve_digest(points: Iterable[Point]) -> str:
    """Of one metric's whole curve."""
    return _sum(sorted((p.step, p.timestamp_ms, value_text(p.value)) for p in points))[:_CURVE_DIGITS]


def curves_digest(points: Iterable[Point]) -> str:
    """Of every metric's whole curve, in the order of the metrics' names, for `ablate.curves`."""
    curves: dict[str, list[Point]] = {}
    for point in points:
        curves.setdefault(point.name, []).append(point)
    return "".join(curve_digest(curves[name]) for name in sorted(curves))


def curve_is_whole(run: Run, metric: str, points: Iterable[Point]) -> bool:
    """Whether a metric's curve is the one that was sent; true of runs that carry no digest of it.

    Args:
        run: Of a training.
        metric: Its name.
        points: Its curve, as the store has it.
    """
    told = run.tags.get(CURVES)
    if told is None:
        return True
    if metric not in run.metrics:
        return not list(points)  # it never was sent; where it is gone, the run's digest says so
    start = sorted(run.metrics).index(metric) * _CURVE_DIGITS
    return told[start : start + _CURVE_DIGITS] == curve_digest(points)


def intact(run: Run) -> bool:
    """Whether a run holds what was sent to it, as far as its digest tells."""
    return run.tags.get(DIGEST) == digest_of(run.metrics, run.params)


def problem(run: Run) -> str | None:
    """Why a run's numbers cannot be trusted, from the run alone; None where they can, or where it carries no digest.

    Args:
        run: Of a training, of a trial, or of a published row.
    """
    if STORAGE not in run.tags and DIGEST not in run.tags:
        return None  # of a version before, which sent none
    if DIGEST not in run.tags:
        return None if not run.metrics else "its digest is gone"
    return None if intact(run) else "its numbers are not those that were sent"


def artifact_digests(run: Run) -> dict[str, str]:
    """Path -> digest of what was uploaded."""
    try:
        found = json.loads(run.tags.get(ARTIFACTS, "{}"))
    except (ValueError, RecursionError):
        return {}
    return {str(path): str(each) for path, each in found.items()} if isinstance(found, dict) else {}


def upload(store: Store, run: Run, path: str, content: bytes) -> None:
    """Write or replace an artifact, then the tag that tells its digest."""
    store.upload(run, path, content)
    store.log(run, tags={ARTIFACTS: json.dumps({**artifact_digests(run), path: bytes_digest(content)})})


def artifact_is_whole(run: Run, path: str, content: bytes | None) -> bool:
    """Whether an artifact is the one that was sent; true where no digest of it was."""
    told = artifact_digests(run).get(path)
    return told is None or (content is not None and told == bytes_digest(content))


def replacement(store: Store, old: Run) -> Run:
    """A new run that is to take another one's place, once it is whole: its name, tags and notes.

    Args:
        store: Where.
        old: The run that does not agree with storage.

    Returns:
        The new run, without a number; `take_over` ends it.
    """
    tags = {name: value for name, value in old.tags.items() if name not in OWN and name != "mlflow.runName"}
    # One that was itself on its way to replace another never was what anybody looked at.
    replaced = old.tags.get(REPLACES, old.id)
    made = store.create(old.experiment, old.name, {**tags, REPLACES: replaced}, old.start_ms)
    if REPLACES in old.tags:
        store.delete(old)
    return made


def take_over(store: Store, run: Run) -> bool:
    """End a replacement: children and links follow, the run it replaces is deleted (and can be restored).

    Args:
        store: Where.
        run: The new run, which is whole.

    Returns:
        Whether it was one.
    """
    old = run.tags.get(REPLACES)
    if old is None:
        return False
    there = store.run(old)
    if there is not None and (there.experiment, there.name) != (run.experiment, run.name):
        store.untag(run, REPLACES)  # somebody's own tag: what it names is no run of this one's kind
        return False
    for tag in ("mlflow.parentRunId", "ablate.plan_run_id", "ablate.training_run_id"):
        for linked in store.linked(tag, old):
            store.log(linked, tags={tag: run.id})
    store.delete_if_there(old)
    store.untag(run, REPLACES)
    return True


def _sum(what: object) -> str:
    return hashlib.sha256(json.dumps(what, separators=(",", ":")).encode()).hexdigest()[:20]
