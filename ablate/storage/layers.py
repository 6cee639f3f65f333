"""Files of several places seen as those of one, and a folder of files seen as a whole."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ablate.core.redaction import redact
from ablate.storage.attempts import manifests_of, read_manifest, records_after, seal_manifest, united
from ablate.storage.checksums import read_json, verified
from ablate.storage.files import Files
from ablate.storage.read_only import ReadOnlyFiles
from ablate.storage.records import Record, same_numbers
from ablate.storage.status import of_two_attempts, same_curves

Curves = builtins.list[dict[str, Any]]

_ATTEMPTS = re.compile(r"([0-9a-f]{20})/attempts(?:/|$)")
_MANIFEST = re.compile(r"([0-9a-f]{20})/attempts/([^/]+)/manifest-[^/]+")


class LayeredFiles:
    """As of `ablate.storage.files.Files`; what is in several places is read from the first of them.

    Of a training it shows what the places hold of one network, that of the first place which has trained it to its end:
    several may have copied the same attempt and measured this or that of it, and its manifest is then that of all.

    Args:
        first: Where it is written.
        others: Which are only read.
    """

    def __init__(self, first: Files, *others: Files) -> None:
        self.location = first.location
        self._first = first
        self._all = (first, *others)
        self._curves: dict[tuple[int, str], Curves | None] = {}  # of what is only read

    def read(self, path: str) -> bytes | None:
        """See `Files`."""
        places = self._places(path)
        found = _MANIFEST.fullmatch(path) if len(places) > 1 else None
        if found is not None:
            of_each = (read_manifest(files, *found.groups()) for files in places)
            manifests = [manifest for manifest in of_each if manifest is not None]
            if len(manifests) > 1:
                return seal_manifest(united(manifests))
        return next((content for files in places if (content := files.read(path)) is not None), None)

    def write(self, path: str, content: bytes) -> None:
        """See `Files`."""
        self._first.write(path, content)

    def create(self, path: str, content: bytes) -> bool:
        """See `Files`; there are none of the others' names to be had."""
        return self.size(path) is None and self._first.create(path, content)

    def list(self, path: str) -> builtins.list[str]:
        """See `Files`."""
        return sorted({name for files in self._places(path) for name in files.list(path)})

    def size(self, path: str) -> int | None:
        """See `Files`."""
        return next((size for files in self._places(path) if (size := files.size(path)) is not None), None)

    def delete(self, path: str) -> None:
        """See `Files`; what others have stays."""
        self._first.delete(path)

    def probe(self) -> None:
        """See `Files`."""
        self._first.probe()

    def places_of(self, key: str) -> builtins.list[Files]:
        """The places that hold attempts at a training, less those whose network is another, or cannot be told."""
        there = [files for files in self._all if files.list(f"{key}/attempts")]
        if len(there) < 2:
            return there
        curves = [self._curves_in(files, key) for files in there]
        first = next((each for each in curves if each is not None), None)
        same = [each is None or each is first or (bool(each) and same_curves(first or [], each)) for each in curves]
        return [files for files, is_same in zip(there, same, strict=True) if is_same]

    def conflicts(self, key: str) -> Iterator[str]:
        """Records of a training of which two places hold other numbers, measured on one network.

        Args:
            key: The training's.

        Yields:
            A line for each.
        """
        places = self.places_of(key)
        seen: dict[str, tuple[Files, str, str]] = {}
        for files in places if len(places) > 1 else ():
            for name, (path, checksum) in sorted(_records_in(files, key).items()):
                other, known, its = seen.setdefault(name, (files, checksum, path))
                both = [verified(files, path, checksum), verified(other, its, known)] if checksum != known else []
                one, first = (Record.from_bytes(each) if each else None for each in both) if both else (None, None)
                if one is not None and first is not None and not same_numbers(one, first):
                    what = f"record {name} ({one.meta.get('what', '?')}) of training {key}"
                    yield f"{what}: {redact(files.location)} has other numbers of it than {redact(other.location)}"

    def _places(self, path: str) -> Sequence[Files]:
        """Where to look for a path."""
        found = _ATTEMPTS.match(path) if len(self._all) > 1 else None
        return self._all if found is None else self.places_of(found[1])

    def _curves_in(self, files: Files, key: str) -> Curves | None:
        """The curves of a training that has been trained to its end in a place; None of another."""
        known = (id(files), key)
        if known in self._curves:
            return self._curves[known]
        curves: Curves = []
        finished = False
        for attempt, manifest in manifests_of(files, key):
            curves = [] if manifest.get("anew") else curves
            finished = finished or bool(manifest["finished"])
            for name, checksum in manifest["histories"][-1:]:
                content = verified(files, f"{key}/attempts/{attempt}/{name}", checksum)
                entries = read_json(content) if content is not None else []
                curves = of_two_attempts(curves, entries)
        found = curves if finished else None
        if isinstance(files, ReadOnlyFiles):
            self._curves[known] = found
        return found


def _records_in(files: Files, key: str) -> dict[str, tuple[str, str]]:
    """Measurement -> path and checksum of its record, as of `ablate.storage.storage.Storage.view`."""
    found: dict[str, tuple[str, str]] = {}
    for attempt, manifest in manifests_of(files, key):
        found = records_after(found, key, attempt, manifest)
    return found


class FilesWithin:
    """The files of a folder as a tree of their own; as of `ablate.storage.files.Files`.

    Args:
        files: Where the folder is.
        folder: Its path.
    """

    def __init__(self, files: Files, folder: str) -> None:
        self.location = f"{files.location}/{folder}"
        self._files = files
        self._folder = folder

    def _path(self, path: str) -> str:
        return f"{self._folder}/{path}".rstrip("/")

    def read(self, path: str) -> bytes | None:
        """See `Files`."""
        return self._files.read(self._path(path))

    def write(self, path: str, content: bytes) -> None:
        """See `Files`."""
        self._files.write(self._path(path), content)

    def create(self, path: str, content: bytes) -> bool:
        """See `Files`."""
        return self._files.create(self._path(path), content)

    def list(self, path: str) -> builtins.list[str]:
        """See `Files`."""
        return self._files.list(self._path(path))

    def size(self, path: str) -> int | None:
        """See `Files`."""
        return self._files.size(self._path(path))

    def delete(self, path: str) -> None:
        """See `Files`."""
        self._files.delete(self._path(path))

    def probe(self) -> None:
        """See `Files`."""
        self._files.probe()
