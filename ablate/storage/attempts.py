"""One attempt at a training: a folder of its own, and the manifest that says which of its files count."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from ablate.core.errors import StorageError
from ablate.storage.checksums import read_json, sha256
from ablate.storage.files import Files
from ablate.storage.records import Record

LAYOUT = 1
"""Of manifests; a newer one than this is refused by name."""

KEPT_CHECKPOINTS = 2
_READ_TRIES = 3


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
        self._key, self.name = key, name
        self._base = f"{key}/attempts/{name}"
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
        self,
        epoch: int,
        content: bytes,
        history: list[dict[str, Any]],
        *,
        finished: bool = False,
        keeps: Sequence[str] = (),
        anew: bool = False,
    ) -> None:
        """Store a checkpoint with the history up to it; older ones than the last two go.

        Args:
            epoch: How many epochs it has trained.
            content: The checkpoint.
            history: Entries of every epoch so far.
            finished: Whether it is the last one.
            keeps: Names of the networks beside `last` and `best` that are in it, or are to come.
            anew: Whether it is another network than that of earlier attempts, of which nothing counts any more.

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
            checkpoints=[*checkpoints[-kept:], (epoch, name, sha256(content))],
            histories=[*histories[-kept:], (story, sha256(lines))],
            **({"keeps": list(keeps)} if keeps else {}),
            **({"anew": True} if anew else {}),
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
        self._commit(records={**self._manifest["records"], record.key: (name, sha256(content))})

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
        self._log = (len(content), sha256(content))
        if last:
            self._commit()

    @property
    def log(self) -> str:
        """The path of the attempt's log file."""
        return f"{self._base}/log.txt"

    @property
    def alive(self) -> str:
        """The path of its signs of life; see `ablate.storage.heartbeat`."""
        return alive_path(self._key, self.name)

    def forget_checkpoints(self) -> None:
        """Name no checkpoint any more, before they are deleted."""
        self._commit(checkpoints=[])

    def forget_records(self, measurements: Collection[str]) -> None:
        """Name some records no more, before they are deleted."""
        kept = {key: entry for key, entry in self._manifest["records"].items() if key not in measurements}
        self._commit(records=kept)

    def _put(self, stem: str, suffix: str, content: bytes) -> str:
        name = f"{stem}-{sha256(content)[:12]}.{suffix}"
        self._files.write(f"{self._base}/{name}", content)
        return name

    def _commit(self, **changes: Any) -> None:
        sequence = self._manifest["sequence"] + 1
        manifest = {**self._manifest, **changes, "sequence": sequence}
        if self._log is not None:
            manifest["log"] = self._log
        self._files.write(f"{self._base}/manifest-{sequence:06d}.json", seal_manifest(manifest))
        self._manifest = json.loads(json.dumps(manifest))
        if sequence > 2:  # the one before stays, in case this one is damaged later
            self._files.delete(f"{self._base}/manifest-{sequence - 2:06d}.json")


def alive_path(key: str, attempt: str) -> str:
    """Where the signs of life of an attempt are."""
    return f"{key}/attempts/{attempt}/alive.json"


def seal_manifest(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as its file, with its checksum."""
    body = json.dumps(manifest)
    return json.dumps({"sha256": sha256(body.encode()), "body": body}).encode()


def records_after(
    records: Mapping[str, tuple[str, str]], key: str, attempt: str, manifest: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """A training's records with those of its next attempt, and without all earlier ones where that trained it anew.

    Args:
        records: Measurement -> path and checksum, of the attempts before.
        key: The training's.
        attempt: The next one.
        manifest: That attempt's.
    """
    before = {} if manifest.get("anew") else records
    base = f"{key}/attempts/{attempt}"
    return {**before, **{name: (f"{base}/{path}", checksum) for name, (path, checksum) in manifest["records"].items()}}


def united(manifests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What several places hold of one attempt, as one manifest.

    Args:
        manifests: Of each place, one or more. Those that are of other epochs than the first one's are left out: an
            attempt trains once, whoever has copied what of it.
    """
    first = manifests[0]
    alike = [each for each in manifests if _epochs_agree(first, each)]
    newest = max(alike, key=lambda each: (each["epoch"], each["sequence"]))  # the first of several
    return {
        **newest,
        "finished": any(each["finished"] for each in alike),
        "checkpoints": sorted({entry[1]: entry for each in alike for entry in each["checkpoints"]}.values()),
        "histories": sorted({entry[0]: entry for each in alike for entry in each["histories"]}.values()),
        "records": {name: entry for each in reversed(alike) for name, entry in each["records"].items()},
    }


def _epochs_agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two manifests name the same history of each epoch that both have one of; its times are its own."""
    of = [{name.split("-")[1]: checksum for name, checksum in each["histories"]} for each in (one, other)]
    return all(of[0][epoch] == of[1][epoch] for epoch in of[0].keys() & of[1].keys())


def manifests_of(files: Files, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and manifest of each attempt at a training that has a valid one, the first one first."""
    for attempt in attempts_of(files, key):
        manifest = read_manifest(files, key, attempt)
        if manifest is not None:
            yield attempt, manifest


def attempts_of(files: Files, key: str) -> list[str]:
    """Names of the attempts at a training, the first one first."""
    names = [name for name in files.list(f"{key}/attempts") if re.fullmatch(r"\d{4,}-[0-9a-f]{8}", name)]
    return sorted(names, key=lambda name: int(name.split("-")[0]))


def read_manifest(files: Files, key: str, attempt: str, *, present: bool = True) -> dict[str, Any] | None:
    """The newest valid manifest of an attempt.

    Args:
        files: Where.
        key: The training's key.
        attempt: The attempt's name.
        present: Less what it names that is gone.

    Returns:
        As of `parse_manifest`; None without one.

    Raises:
        StorageError: A newer version wrote it.
    """
    base = f"{key}/attempts/{attempt}"
    for _ in range(_READ_TRIES):  # a live writer drops old manifests, between our listing and our reading too
        names = files.list(base)
        manifests = sorted((name for name in names if name.startswith("manifest-")), reverse=True)
        for name in manifests:
            content = files.read(f"{base}/{name}")
            manifest = parse_manifest(content, f"{files.location}/{base}/{name}")
            if manifest is not None:
                return _present(manifest, set(names)) if present else manifest
        if not manifests:
            break
    return None


def parse_manifest(content: bytes | None, path: str) -> dict[str, Any] | None:
    """What a manifest says.

    Args:
        content: Its file.
        path: Where that is, for messages.

    Returns:
        None where it is damaged.

    Raises:
        StorageError: A newer version wrote it.
    """
    try:
        outer = read_json(content)
        body = outer["body"]
        if sha256(body.encode()) != outer["sha256"]:
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
    anew: bool = False
    """Whether records and histories of earlier attempts are another network's."""
    keeps: list[str] = []
    log: tuple[int, str] | None = None
    """Bytes of the log when the manifest was written, and their checksum: later lines only follow them."""
