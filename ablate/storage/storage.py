"""Checkpoints and records in a folder or a bucket: the truth of what has been trained and measured.

    <storage>/<training_key>/training.json           what the key stands for
    <storage>/<training_key>/attempts/<attempt>/     belongs to one attempt alone
        checkpoint-000007-<sum>.pt, history-000007-<sum>.json, record-<measurement_key>-<sum>.npz, log.txt
        manifest-000012.json                         names the files above with their checksums; written last
    <storage>/claims/...                             see `ablate.storage.leases`
    <storage>/identity/<id>                          which storage this is; several where storages were merged

A file counts once a manifest names it, and a manifest once its own checksum holds; readers take the newest valid one.
The log grows beside them; a manifest holds the checksum of what it was when the manifest was written.
So nothing half written is ever read, and a worker that outlived its node writes into a folder nobody waits for.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from ablate.core.errors import StorageError
from ablate.core.text import now_ms
from ablate.storage.checkpoints import load_state
from ablate.storage.checksums import read_json
from ablate.storage.files import Files, LocalFiles, open_files

LAYOUT = 1
"""Of manifests, checkpoints and records; a newer one than this is refused by name."""

KEPT_CHECKPOINTS = 2
_READ_TRIES = 3
_KEY = re.compile(r"[0-9a-f]{20}")
IDENTITY = re.compile(r"\d{13}-[0-9a-f]{12}", re.ASCII)
"""Of a storage's id."""


@dataclass(frozen=True)
class Record:
    """One measurement: its numbers, per-image correctness and arrays.

    Args:
        key: The measurement's key.
        scalars: Metric -> value.
        arrays: Name -> array; per-image correctness is the boolean array `correct`.
        meta: What was measured, how, where, and how long it took.
    """

    key: str
    scalars: dict[str, float]
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def correct(self) -> np.ndarray[Any, Any] | None:
        """[N] bool, which test images were classified correctly."""
        return self.arrays.get("correct")

    def to_bytes(self) -> bytes:
        """The record as one `.npz` file."""
        for name, value in self.arrays.items():
            if value.dtype.hasobject:  # NumPy would pickle it, and nobody could read it
                raise TypeError(f"expected arrays of numbers or text, got {name!r} of {value.dtype}")
        head = json.dumps({"layout": LAYOUT, "key": self.key, "scalars": self.scalars, "meta": self.meta})
        stream = io.BytesIO()
        packed = {f"array/{name}": value for name, value in self.arrays.items()}
        np.savez_compressed(stream, head=np.frombuffer(head.encode(), np.uint8), **packed)  # type: ignore[arg-type]
        return stream.getvalue()

    @staticmethod
    def from_bytes(content: bytes) -> Record:
        """The record in an `.npz` file; nothing in it is unpickled."""
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            head = json.loads(file["head"].tobytes())
            if head["layout"] != LAYOUT:
                raise StorageError(
                    f"record {head.get('key')}: expected storage layout {LAYOUT}, got {head['layout']}; "
                    "use the version that wrote it"
                )
            arrays = {name.removeprefix("array/"): file[name] for name in file.files if name != "head"}
        return Record(head["key"], head["scalars"], arrays, head["meta"])


class TrainingStatus(StrEnum):
    """How far a training has got, with all that is to be measured on it."""

    MISSING = "missing"
    """No epoch of it is stored."""
    TRAINING = "training"
    """Under way, or interrupted: it goes on from its last checkpoint."""
    TRAINED = "trained"
    """To its last epoch; measurements lack."""
    FINISHED = "finished"
    """Trained and measured."""
    FAILED = "failed"
    STOPPED = "stopped"
    """By a search, early."""


@dataclass(frozen=True)
class TrainingView:
    """What storage holds of one training.

    Args:
        key: The training's key.
        epoch: Of the furthest checkpoint; -1 without one.
        finished: Whether the training itself is done (measurements may lack).
        records: Measurement key -> (path, checksum) of its record.
        failure: Reason of the latest attempt's failure, or None.
        attempts: How many there have been.
        stopped: The epoch after which a search stopped it early; None where none did, or where it was taken up since.
        histories: Checksum of the latest history of each attempt: the curves are others only where these are.
    """

    key: str
    epoch: int = -1
    finished: bool = False
    has_checkpoint: bool = False
    records: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    attempts: int = 0
    stopped: int | None = None
    histories: tuple[str, ...] = ()

    @property
    def reason(self) -> str | None:
        """Why the latest attempt failed, in one line; None where it did not."""
        return None if self.failure is None else str(self.failure.get("reason", "unknown"))

    def status(self, measurements: Iterable[str] = ()) -> TrainingStatus:
        """How far it has got.

        Args:
            measurements: Keys of what is to be measured on it; none: the training alone is asked about.
        """
        if self.finished and self.records.keys() >= set(measurements):
            return TrainingStatus.FINISHED
        if self.failure is not None:
            return TrainingStatus.FAILED
        if self.stopped is not None:
            return TrainingStatus.STOPPED
        if self.finished:
            return TrainingStatus.TRAINED
        return TrainingStatus.TRAINING if self.epoch >= 0 else TrainingStatus.MISSING


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Storage:
    """All trainings at one location.

    Args:
        location: A folder's path, or a URI of `pyarrow.fs`.
    """

    def __init__(self, location: str) -> None:
        self.files: Files = open_files(location)

    @property
    def location(self) -> str:
        """The folder's absolute path, or the URI."""
        return self.files.location

    def check(self) -> None:
        """Prove that storage can be written.

        Raises:
            StorageError: It cannot.
        """
        self.files.probe()
        probe = f"probe-{uuid.uuid4().hex}"
        self.files.write(probe, b"ablate")
        self.files.delete(probe)

    def identities(self) -> list[str]:
        """Ids of this storage, the oldest first: its own, and those of storages whose files were copied into it."""
        names = [name for name in self.files.list("identity") if IDENTITY.fullmatch(name)]
        return sorted(names, key=lambda name: (name.partition("-")[0], name))

    def identify(self) -> str:
        """The storage's id, made at the first launch into it; a copy keeps it, an emptied storage gets another.

        Returns:
            The oldest one where it has several; one by its location where it has none and cannot be written.
        """
        if not self.identities():
            made = f"{now_ms():013d}-{uuid.uuid4().hex[:12]}"
            try:
                self.files.write(f"identity/{made}", b"ablate")
            except StorageError:
                return f"{0:013d}-{_sum(self.location.encode())[:12]}"
        return self.identities()[0]

    def keys(self) -> list[str]:
        """Keys of all trainings that storage knows."""
        return [name for name in self.files.list("") if _KEY.fullmatch(name)]

    def describe(self, key: str, identity: Mapping[str, Any]) -> None:
        """Write what a key stands for, once.

        Args:
            key: The training's key.
            identity: From `ablate.planning.keys.training_identity`.
        """
        path = f"{key}/training.json"
        try:
            there = isinstance(read_json(self.files.read(path)), dict)
        except ValueError:
            there = False  # damaged, or not there
        if not there:
            self.files.write(path, json.dumps(identity, indent=1, sort_keys=True).encode())

    def view(self, key: str) -> TrainingView:
        """What there is of a training, from its valid manifests alone.

        Args:
            key: The training's key.

        Returns:
            Its state; an empty one for an unknown key.
        """
        epoch, finished, has_checkpoint = -1, False, False
        records: dict[str, tuple[str, str]] = {}
        failure = None
        stopped = None
        histories: list[str] = []
        attempts = self._attempts(key)
        for attempt in attempts:
            manifest = self._manifest(key, attempt)
            if manifest is None:
                continue
            base = f"{key}/attempts/{attempt}"
            finished = finished or bool(manifest["finished"])
            epoch = max(epoch, int(manifest["epoch"]))
            has_checkpoint = has_checkpoint or bool(manifest["checkpoints"])
            records |= {name: (f"{base}/{entry[0]}", entry[1]) for name, entry in manifest["records"].items()}
            histories += [checksum for _, checksum in manifest["histories"][-1:]]
            failure = manifest["failure"]
            stopped = manifest.get("stopped")  # of the latest attempt alone: one after it has taken the training up
        stopped = None if finished else stopped
        return TrainingView(
            key, epoch, finished, has_checkpoint, records, failure, len(attempts), stopped, tuple(histories)
        )

    def history(self, key: str) -> list[dict[str, Any]]:
        """Every epoch's metrics with their original times, of the furthest attempt.

        Args:
            key: The training's key.

        Returns:
            Entries `{"epoch", "timestamp_ms", "metrics"}`. Where a file of them is damaged or gone, they are taken from
            the checkpoint that carries them, and the file is written again.
        """
        best: list[dict[str, Any]] = []
        lost: list[tuple[str, str]] = []
        reached = -1
        for attempt in self._attempts(key):
            manifest = self._manifest(key, attempt, present=False)
            if manifest is None:
                continue
            reached = max(reached, int(manifest["epoch"]))
            for name, checksum in reversed(manifest["histories"]):
                path = f"{key}/attempts/{attempt}/{name}"
                content = self._verified(path, checksum)
                if content is not None:
                    entries = json.loads(content)
                    if len(entries) > len(best):
                        best = entries
                    break
                lost.append((path, checksum))
        if reaches(best, reached):
            return best
        carried = self._carried_history(key)
        if len(carried) > len(best):
            best = carried
            content = json.dumps(best).encode()
            for path, checksum in lost:
                if _sum(content) == checksum:
                    with contextlib.suppress(StorageError):  # where nothing may be written, it is read so each time
                        self.files.write(path, content)
        return best

    def _carried_history(self, key: str) -> list[dict[str, Any]]:
        """The history in the furthest checkpoint."""
        content, _ = self.checkpoint(key)
        if content is None:
            return []
        try:
            history: list[dict[str, Any]] = load_state(content)["history"]
        except StorageError:  # whole, but none of ours
            return []
        return history

    def damage(self, key: str) -> list[str]:
        """What of a training cannot be read any more, history and log included; what can be regained, is.

        Contents of checkpoints are looked at only when they are wanted; a bucket keeps checksums of its own, and is
        looked through for what is gone alone.

        Args:
            key: The training's key.

        Returns:
            A message for each.
        """
        messages = []
        reached = -1
        for attempt in self._attempts(key):
            base = f"{key}/attempts/{attempt}"
            names = self.files.list(base)
            found = sorted((name for name in names if name.startswith("manifest-")), reverse=True)
            whole = None
            for name in found:
                whole = _parse_manifest(self.files.read(f"{base}/{name}"), f"{self.location}/{base}/{name}")
                if whole is not None:
                    break
                messages.append(
                    f"expected a whole manifest, got a damaged {base}/{name}; what it alone named is made again"
                )
            if whole is None:
                if not found and any(name.startswith(("checkpoint-", "record-")) for name in names):
                    messages.append(f"expected a manifest in {base}, got none; what it named is made again")
                continue
            reached = max(reached, int(whole["epoch"]))
            gone = {name for _, name, _ in whole["checkpoints"]} | {name for name, _ in whole["records"].values()}
            messages += [
                f"expected {base}/{name}, got none; what it held is made again" for name in sorted(gone - set(names))
            ]
            log = whole.get("log")
            if log is not None and isinstance(self.files, LocalFiles):
                text = self.files.read(f"{base}/log.txt")
                if text is None or _sum(text[: log[0]]) != log[1]:
                    messages.append(
                        f"expected the whole log, got {'none' if text is None else 'a damaged one'} at "
                        f"{base}/log.txt; no number depends on it"
                    )
        history = self.history(key) if reached >= 0 else []
        if reached >= 0 and not reaches(history, reached):
            last = history[-1]["epoch"] if history else "none"
            messages.append(
                f"expected the metrics of all epochs up to {reached} in {key}, got them up to {last}: the histories "
                "are damaged, and no checkpoint that carries them is left"
            )
        return messages

    def record(self, view: TrainingView, measurement: str) -> Record | None:
        """A measurement's record.

        Args:
            view: Of its training.
            measurement: Its key.

        Returns:
            The record; None where there is none, or its checksum does not hold.
        """
        if measurement not in view.records:
            return None
        content = self._verified(*view.records[measurement])
        return None if content is None else Record.from_bytes(content)

    def checkpoint(self, key: str) -> tuple[bytes | None, list[str]]:
        """The furthest whole checkpoint.

        Args:
            key: The training's key.

        Returns:
            Its bytes, None without any; and a message for each further one that was cut short or corrupted.

        Raises:
            StorageError: It was written by a newer version.
        """
        candidates: list[tuple[int, str, str]] = []
        for attempt in self._attempts(key):
            manifest = self._manifest(key, attempt)
            if manifest:
                base = f"{key}/attempts/{attempt}"
                candidates += [(epoch, f"{base}/{name}", total) for epoch, name, total in manifest["checkpoints"]]
        messages: list[str] = []
        for epoch, path, checksum in sorted(candidates, reverse=True):
            content = self._verified(path, checksum)
            if content is not None:
                return content, messages
            messages.append(f"expected the whole checkpoint of epoch {epoch}, got a damaged {path}; it is passed over")
        return None, messages

    def drop_damaged(self, key: str, measurements: Iterable[str]) -> list[str]:
        """Delete records that cannot be read any more, so that they are measured again.

        A bucket keeps checksums of its own and is not read through for this.

        Args:
            key: The training's key.
            measurements: Keys of the records that matter.

        Returns:
            A message for each.
        """
        return self.damaged_records(key, measurements, drop=True)

    def damaged_records(self, key: str, measurements: Iterable[str], *, drop: bool = False) -> list[str]:
        """Records that cannot be read any more; none of a bucket, which keeps checksums of its own.

        Args:
            key: The training's key.
            measurements: Keys of the records that matter.
            drop: Delete them.

        Returns:
            A message for each.
        """
        if not isinstance(self.files, LocalFiles):
            return []
        messages = []
        view = self.view(key)
        for name in measurements:
            path, checksum = view.records.get(name, ("", ""))
            if path and self._verified(path, checksum) is None:
                if drop:
                    self.files.delete(path)
                told = "it is measured again" if drop else "the same launch again measures it"
                messages.append(f"expected a whole record, got a damaged {path}; {told}")
        return messages

    def log(self, key: str) -> tuple[str, str]:
        """The log of a training's latest attempt.

        Args:
            key: The training's key.

        Returns:
            Where it is, and its text; two empty ones before the first attempt.
        """
        attempts = self._attempts(key)
        if not attempts:
            return "", ""
        path = f"{key}/attempts/{attempts[-1]}/log.txt"
        return f"{self.location}/{path}", (self.files.read(path) or b"").decode(errors="replace")

    def attempt(self, key: str) -> Attempt:
        """A new attempt at a training; nobody else writes into its folder.

        Args:
            key: The training's key.

        Returns:
            Its writer.
        """
        earlier = self._attempts(key)
        number = 1 + max((int(name.split("-")[0]) for name in earlier), default=0)
        return Attempt(self.files, key, f"{number:04d}-{uuid.uuid4().hex[:8]}")

    def prune(self, key: str) -> int:
        """Drop the checkpoints of a training, keep its records and history.

        Args:
            key: The training's key.

        Returns:
            Bytes freed.
        """
        freed = 0
        for attempt in self._attempts(key):
            manifest = self._manifest(key, attempt)
            if manifest is None or not manifest["checkpoints"]:
                continue
            base = f"{key}/attempts/{attempt}"
            writer = Attempt(self.files, key, attempt, manifest)
            paths = [f"{base}/{name}" for _, name, _ in manifest["checkpoints"]]
            writer.forget_checkpoints()
            for path in paths:
                freed += self.files.size(path) or 0
                self.files.delete(path)
        return freed

    def _attempts(self, key: str) -> list[str]:
        names = [name for name in self.files.list(f"{key}/attempts") if re.fullmatch(r"\d{4,}-[0-9a-f]{8}", name)]
        return sorted(names, key=lambda name: int(name.split("-")[0]))

    def _manifest(self, key: str, attempt: str, *, present: bool = True) -> dict[str, Any] | None:
        """The newest valid manifest; with `present`, less what it names that is gone."""
        base = f"{key}/attempts/{attempt}"
        for _ in range(_READ_TRIES):  # a live writer drops old manifests, between our listing and our reading too
            names = self.files.list(base)
            manifests = sorted((name for name in names if name.startswith("manifest-")), reverse=True)
            for name in manifests:
                content = self.files.read(f"{base}/{name}")
                manifest = _parse_manifest(content, f"{self.location}/{base}/{name}")
                if manifest is not None:
                    return _present(manifest, set(names)) if present else manifest
            if not manifests:
                break
        return None

    def _verified(self, path: str, checksum: str) -> bytes | None:
        content = self.files.read(path)
        return content if content is not None and _sum(content) == checksum else None


def _present(manifest: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {
        **manifest,
        "checkpoints": [entry for entry in manifest["checkpoints"] if entry[1] in names],
        "histories": [entry for entry in manifest["histories"] if entry[0] in names],
        "records": {key: entry for key, entry in manifest["records"].items() if entry[0] in names},
    }


def _shaped(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest has all that readers look at, and names files of its own folder alone."""
    try:
        _Shape.model_validate(manifest)
    except ValidationError:
        return False
    return True


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]


class _Shape(BaseModel):
    sequence: int
    epoch: int
    finished: bool
    checkpoints: list[tuple[int, _Name, str]]
    histories: list[tuple[_Name, str]]
    records: dict[str, tuple[_Name, str]]
    failure: dict[str, Any] | None
    stopped: int | None = None
    log: tuple[int, str] | None = None
    """Bytes of the log when the manifest was written, and their checksum: later lines only follow them."""


def reaches(history: Sequence[Mapping[str, Any]], epoch: int) -> bool:
    """Whether a history has every epoch up to one.

    Args:
        history: As of `Storage.history`.
        epoch: How far the training has got; -1 where nothing was stored yet.

    Returns:
        False for one cut short.
    """
    return epoch < 0 or (bool(history) and int(history[-1]["epoch"]) >= epoch)


def _parse_manifest(content: bytes | None, path: str) -> dict[str, Any] | None:
    try:
        outer = read_json(content)
        body = outer["body"]
        if _sum(body.encode()) != outer["sha256"]:
            return None
        manifest: dict[str, Any] = read_json(body)
        layout = manifest["layout"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if layout == LAYOUT and not _shaped(manifest):
        return None
    if layout != LAYOUT:
        raise StorageError(f"{path}: expected storage layout {LAYOUT}, got {layout}; use the version that wrote it")
    return manifest


class Attempt:
    """The writer of one attempt: files first, the manifest that names them last.

    Args:
        files: Where.
        key: The training's key.
        name: The attempt's own folder.
        manifest: What an existing attempt already holds.
    """

    def __init__(self, files: Files, key: str, name: str, manifest: dict[str, Any] | None = None) -> None:
        self._files = files
        self._base = f"{key}/attempts/{name}"
        self.name = name
        self._log: tuple[int, str] | None = None  # as it was written last
        self._manifest: dict[str, Any] = manifest or {
            "layout": LAYOUT,
            "sequence": 0,
            "epoch": -1,
            "finished": False,
            "checkpoints": [],
            "histories": [],
            "records": {},
            "failure": None,
        }

    def save_checkpoint(
        self, epoch: int, content: bytes, history: list[dict[str, Any]], *, finished: bool = False
    ) -> None:
        """Store a checkpoint with the history up to it; older ones than the last two go.

        Args:
            epoch: How many epochs it has trained.
            content: The checkpoint.
            history: Entries of every epoch so far.
            finished: Whether it is the last one.

        Raises:
            StorageError: No room, or no right to write; what was there before stays valid.
        """
        name = self._put(f"checkpoint-{epoch:06d}", "pt", content)
        lines = json.dumps(history).encode()
        story = self._put(f"history-{epoch:06d}", "json", lines)
        # The same epoch again takes the place of the first: two entries of one file would outlive it.
        checkpoints = [entry for entry in self._manifest["checkpoints"] if entry[1] != name]
        histories = [entry for entry in self._manifest["histories"] if entry[0] != story]
        kept = KEPT_CHECKPOINTS - 1
        gone = [entry[1] for entry in checkpoints[:-kept]] + [entry[0] for entry in histories[:-kept]]
        self._commit(
            epoch=epoch,
            finished=finished,
            checkpoints=[*checkpoints[-kept:], (epoch, name, _sum(content))],
            histories=[*histories[-kept:], (story, _sum(lines))],
        )
        for old in gone:
            self._files.delete(f"{self._base}/{old}")

    def save_record(self, record: Record) -> None:
        """Store a measurement.

        Args:
            record: The measurement.

        Raises:
            StorageError: No room, or no right to write.
        """
        content = record.to_bytes()
        name = self._put(f"record-{record.key}", "npz", content)
        self._commit(records={**self._manifest["records"], record.key: (name, _sum(content))})

    def save_failure(self, reason: str, details: str, timestamp_ms: int) -> None:
        """Store why the attempt failed.

        Args:
            reason: One line for tables and MLflow.
            details: The traceback.
            timestamp_ms: When, milliseconds since 1970.
        """
        self._commit(failure={"reason": reason, "details": details, "timestamp_ms": timestamp_ms})

    def save_stopped(self, epoch: int) -> None:
        """Store that a search stopped the training early; a later attempt takes it up from its checkpoint.

        Args:
            epoch: After which it was stopped.
        """
        self._commit(stopped=epoch)

    def save_log(self, text: str, *, last: bool = False) -> None:
        """Replace the attempt's log file by one that has grown.

        The next manifest holds its length and checksum: whatever was there then is checked, and a line written between
        two manifests costs none of its own.

        Args:
            text: All lines so far.
            last: Nothing follows: a manifest is written for it.
        """
        content = text.encode(errors="backslashreplace")
        self._files.write(self.log, content)
        self._log = (len(content), _sum(content))
        if last:
            self._commit()

    @property
    def log(self) -> str:
        """The path of the attempt's log file."""
        return f"{self._base}/log.txt"

    def forget_checkpoints(self) -> None:
        """Name no checkpoint any more, before they are deleted."""
        self._commit(checkpoints=[])

    def _put(self, stem: str, suffix: str, content: bytes) -> str:
        name = f"{stem}-{_sum(content)[:12]}.{suffix}"
        self._files.write(f"{self._base}/{name}", content)
        return name

    def _commit(self, **changes: Any) -> None:
        sequence = self._manifest["sequence"] + 1
        manifest = {**self._manifest, **changes, "sequence": sequence}
        if self._log is not None:
            manifest["log"] = self._log
        body = json.dumps(manifest)
        content = json.dumps({"sha256": _sum(body.encode()), "body": body}).encode()
        self._files.write(f"{self._base}/manifest-{sequence:06d}.json", content)
        self._manifest = json.loads(body)
        if sequence > 2:  # the one before stays, in case this one is damaged later
            self._files.delete(f"{self._base}/manifest-{sequence - 2:06d}.json")
