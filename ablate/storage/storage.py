"""Checkpoints and records in a folder or a bucket: the truth of what has been trained and measured.

    <storage>/<training_key>/training.json           what the key stands for
    <storage>/<training_key>/attempts/<attempt>/     belongs to one attempt alone
        checkpoint-000007-<sum>.pt, history-000007-<sum>.json, record-<measurement_key>-<sum>.npz, log.txt
        manifest-000012.json                         names the files above with their checksums; written last
        alive.json                                   when it began and was last alive; see `ablate.storage.heartbeat`
    <storage>/claims/...                             see `ablate.storage.leases`
    <storage>/identity/<id>                          which storage this is; several where storages were merged

A file counts once a manifest names it, and a manifest once its own checksum holds; readers take the newest valid one.
The log grows beside them; a manifest holds the checksum of what it was when the manifest was written.
So nothing half written is ever read, and a worker that outlived its node writes into a folder nobody waits for.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Self

from ablate.core.errors import StorageError
from ablate.core.places import is_address, local_path, refuse_half_written
from ablate.core.text import now_ms
from ablate.storage.attempts import (
    Attempt,
    attempts_of,
    manifests_of,
    parse_manifest,
    read_manifest,
    records_after,
)
from ablate.storage.bundles import SUFFIX, BundleFiles
from ablate.storage.checkpoints import load_state
from ablate.storage.checksums import read_json, sha256, verified
from ablate.storage.files import BucketFiles, Files, LocalFiles
from ablate.storage.records import Record
from ablate.storage.status import TrainingView, network_digest, of_two_attempts, reaches

_KEY = re.compile(r"[0-9a-f]{20}")
IDENTITY = re.compile(r"\d{13}-[0-9a-f]{12}", re.ASCII)
"""Of a storage's id."""


class Storage:
    """All trainings at one location.

    Args:
        location: The path of a folder or of a bundle, or a URI of `pyarrow.fs`.
    """

    def __init__(self, location: str) -> None:
        self.files: Files = open_files(location)

    @classmethod
    def of(cls, files: Files) -> Self:
        """The trainings in files that are open already."""
        opened = cls.__new__(cls)
        opened.files = files
        return opened

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
                return f"{0:013d}-{sha256(self.location.encode())[:12]}"
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

    def keep_weights(self, digest: str, content: bytes) -> None:
        """Write weights that were trained elsewhere, where the workers that measure them look.

        Args:
            digest: Of the weights.
            content: From `ablate.storage.checkpoints.save_network`.
        """
        self.files.write(f"weights/{digest}", content)

    def weights(self, digest: str) -> bytes:
        """What `keep_weights` wrote.

        Raises:
            StorageError: It is not there.
        """
        content = self.files.read(f"weights/{digest}")
        if content is None:
            raise StorageError(
                f"expected the weights {digest} in {self.location}, got none; the same command brings them"
            )
        return content

    def view(self, key: str) -> TrainingView:
        """What there is of a training, from its valid manifests alone.

        Returns:
            Its state; an empty one for an unknown key.
        """
        epoch, finished, has_checkpoint = -1, False, False
        records: dict[str, tuple[str, str]] = {}
        failure = None
        stopped = None
        histories: list[str] = []
        keeps: tuple[str, ...] = ()
        attempts = attempts_of(self.files, key)
        for attempt in attempts:
            manifest = read_manifest(self.files, key, attempt)
            if manifest is None:
                continue
            finished = finished or bool(manifest["finished"])
            if int(manifest["epoch"]) >= epoch and manifest["checkpoints"]:
                keeps = tuple(manifest.get("keeps", ()))
            epoch = max(epoch, int(manifest["epoch"]))
            has_checkpoint = has_checkpoint or bool(manifest["checkpoints"])
            records = records_after(records, key, attempt, manifest)
            histories += [checksum for _, checksum in manifest["histories"][-1:]]
            failure = manifest["failure"]
            stopped = manifest.get("stopped")  # of the latest attempt alone: one after it has taken the training up
        stopped = None if finished else stopped
        return TrainingView(
            key, epoch, finished, has_checkpoint, records, failure, len(attempts), stopped, tuple(histories), keeps
        )

    def history(self, key: str) -> list[dict[str, Any]]:
        """Every epoch's metrics with their original times, of the furthest attempt, as `checkpoint` and records are.

        Returns:
            Entries `{"epoch", "timestamp_ms", "metrics"}`; of attempts that are as far, see `of_two_attempts`. Where a
            file of them is damaged or gone, they are taken from the checkpoint that carries them, and the file is
            written again.
        """
        best: list[dict[str, Any]] = []
        lost: list[tuple[str, str]] = []
        reached = -1
        for attempt in attempts_of(self.files, key):
            manifest = read_manifest(self.files, key, attempt, present=False)
            if manifest is None:
                continue
            reached = max(reached, int(manifest["epoch"]))
            entries, damaged = self._history_of(key, attempt, manifest)
            best = [] if manifest.get("anew") else best
            lost += damaged
            best = of_two_attempts(best, entries)
        if reaches(best, reached):
            return best
        carried = self._carried_history(key)
        if len(carried) > len(best):
            best = carried
            content = json.dumps(best).encode()
            for path, checksum in lost:
                if sha256(content) == checksum:
                    with contextlib.suppress(StorageError):  # where nothing may be written, it is read so each time
                        self.files.write(path, content)
        return best

    def history_of(self, key: str, attempt: str, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The same of one attempt, up to its own last epoch, where that can be read."""
        return self._history_of(key, attempt, manifest)[0]

    def _history_of(
        self, key: str, attempt: str, manifest: Mapping[str, Any]
    ) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
        """An attempt's newest whole history, and paths and checksums of the damaged ones."""
        damaged: list[tuple[str, str]] = []
        for name, checksum in reversed(manifest["histories"]):
            path = f"{key}/attempts/{attempt}/{name}"
            content = verified(self.files, path, checksum)
            if content is not None:
                entries: list[dict[str, Any]] = json.loads(content)
                return entries, damaged
            damaged.append((path, checksum))
        return [], damaged

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

        Returns:
            A message for each.
        """
        messages = []
        reached = -1
        for attempt in attempts_of(self.files, key):
            base = f"{key}/attempts/{attempt}"
            names = self.files.list(base)
            found = sorted((name for name in names if name.startswith("manifest-")), reverse=True)
            whole = None
            for name in found:
                whole = parse_manifest(self.files.read(f"{base}/{name}"), f"{self.location}/{base}/{name}")
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
                if text is None or sha256(text[: log[0]]) != log[1]:
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

        Returns:
            The record; None where there is none, its checksum does not hold, or it is `outdated`.
        """
        found = self.stored_record(view, measurement)
        return None if found is None or self.outdated(found) else found

    def stored_record(self, view: TrainingView, measurement: str) -> Record | None:
        """The same, outdated or not."""
        if measurement not in view.records:
            return None
        content = verified(self.files, *view.records[measurement])
        return None if content is None else Record.from_bytes(content)

    def outdated(self, record: Record) -> bool:
        """Whether it is of examples made on another network than what is here of the training that made them.

        Returns:
            False too where that training is not here to its end, and of records of versions that did not say so.
        """
        made_on, digest = record.meta.get("made_on"), record.meta.get("made_on_digest")
        if digest is None or not isinstance(made_on, str) or not _KEY.fullmatch(made_on):
            return False
        return self.view(made_on).finished and network_digest(self.history(made_on)) != digest

    def checkpoint(self, key: str) -> tuple[bytes | None, list[str]]:
        """The furthest whole checkpoint.

        Returns:
            Its bytes, None without any; and a message for each further one that was cut short or corrupted.

        Raises:
            StorageError: It was written by a newer version.
        """
        candidates: list[tuple[int, str, str]] = []
        for attempt, manifest in manifests_of(self.files, key):
            base = f"{key}/attempts/{attempt}"
            candidates += [(epoch, f"{base}/{name}", total) for epoch, name, total in manifest["checkpoints"]]
        messages: list[str] = []
        for epoch, path, checksum in sorted(candidates, reverse=True):
            content = verified(self.files, path, checksum)
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
            if path and verified(self.files, path, checksum) is None:
                if drop:
                    self.files.delete(path)
                told = "it is measured again" if drop else "the same launch again measures it"
                messages.append(f"expected a whole record, got a damaged {path}; {told}")
        return messages

    def log(self, key: str) -> tuple[str, str]:
        """The log of a training's latest attempt.

        Returns:
            Where it is, and its text; two empty ones before the first attempt.
        """
        path = self._log_of(key)
        text = (self.files.read(path) or b"").decode(errors="replace") if path else ""
        return self.log_place(key), text

    def log_place(self, key: str) -> str:
        """Where the log of a training's latest attempt is; empty before the first attempt."""
        path = self._log_of(key)
        return f"{self.location}/{path}" if path else ""

    def _log_of(self, key: str) -> str:
        attempts = attempts_of(self.files, key)
        return f"{key}/attempts/{attempts[-1]}/log.txt" if attempts else ""

    def sizes(self, key: str) -> tuple[int, int]:
        """What a training takes.

        Returns:
            Bytes of checkpoints, which `prune` may drop, and of everything else.
        """
        checkpoints = others = 0
        for attempt in attempts_of(self.files, key):
            base = f"{key}/attempts/{attempt}"
            for name in self.files.list(base):
                size = self.files.size(f"{base}/{name}") or 0
                if name.startswith("checkpoint-"):
                    checkpoints += size
                else:
                    others += size
        return checkpoints, others

    def attempt(self, key: str) -> Attempt:
        """A new attempt at a training; nobody else writes into its folder."""
        earlier = attempts_of(self.files, key)
        number = 1 + max((int(name.split("-")[0]) for name in earlier), default=0)
        return Attempt(self.files, key, f"{number:04d}-{uuid.uuid4().hex[:8]}")

    def prune(self, key: str) -> int:
        """Drop the checkpoints of a training, keep its records and history.

        Returns:
            Bytes freed.
        """
        freed = 0
        for attempt in attempts_of(self.files, key):
            manifest = read_manifest(self.files, key, attempt)
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


def open_files(location: str) -> Files:
    """The files at a location.

    Args:
        location: The path of a folder or of a bundle, or a URI of `pyarrow.fs` (`s3://bucket/prefix`, `gs://...`).

    Returns:
        Local files, a bucket's, or those in a bundle, which are only read.

    Raises:
        StorageError: The location cannot be used.
        SpecError: It is half an address.
    """
    refuse_half_written(location, "--storage", "a folder or an address like s3://bucket/prefix")
    if is_address(location) and not location.startswith("file://"):
        return BucketFiles(location)
    path = local_path(location.removeprefix("file://"), "--storage").absolute()
    if path.suffix == SUFFIX and not path.is_dir():
        return BundleFiles(path)
    return LocalFiles(path)
