"""A bundle: a storage that travels as one zip file. It is read as it lies, and never unpacked.

    bundle.json                  layout, and the oldest version that reads it
    manifest-sha256.txt          a checksum for every other file, as `sha256sum -c` takes it
    storage/...                  as in a storage; unpacked, it is one
    results/..., ro-crate-metadata.json    what `ablate.bundle` states of it

Whoever made it may mean ill: names, sizes, kinds and compression are looked at before anything is read, and what is
read has to have its checksum.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import threading
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from ablate.core.errors import StorageError
from ablate.storage.checksums import BROKEN_ZIP, read_json, sha256
from ablate.storage.layers import LayeredFiles
from ablate.storage.read_only import ReadOnlyFiles

LAYOUT = 1
"""Of bundles; a newer one names the version it wants."""

READER = "0.2.0"
"""The oldest version of ablate that reads this layout."""

ABOUT, CHECKSUMS, FOLDER = "bundle.json", "manifest-sha256.txt", "storage"
SUFFIX = ".zip"

MOST_FILES = 200_000
SMALL = 256 * 2**20
MOST_TIMES = 20
"""A bundle may hold `SMALL` bytes, or so many times what it is itself: more is a bomb."""

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_UNIX = 3
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_EPOCH = (1980, 1, 1, 0, 0, 0)


class Bundle:
    """A zip file with checksums, opened and looked through.

    Args:
        path: Of the file.

    Raises:
        StorageError: It is no bundle, one of a newer layout, or one that nobody should open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(path)
            self._size = path.stat().st_size
        except OSError as error:
            raise StorageError(f"expected a bundle, got {path}: {error.strerror or error}") from error
        except BROKEN_ZIP as error:
            raise self.refused("a zip file", str(error)) from error
        self._infos = self._checked(self._zip.infolist())
        self.about = self._about()
        self.checksums = self._checksums()

    def refused(self, expected: str, got: str) -> StorageError:
        """Why it is not read."""
        return StorageError(f"{self.path}: expected {expected}, got {got[:300]}")

    def names(self) -> list[str]:
        """Every file in it that has a checksum."""
        return sorted(self.checksums)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        return self._infos[name].file_size if name in self.checksums else None

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none.

        Raises:
            StorageError: Its checksum does not hold.
        """
        if name not in self.checksums:
            return None
        content = self._content(name)
        if sha256(content) != self.checksums[name]:
            raise self.refused(f"{name!r} with the checksum of {CHECKSUMS}", "another one: it was changed or damaged")
        return content

    def digest(self) -> str:
        """What it is known by: the SHA-256 of the file that was opened, whatever lies there by now."""
        stream = cast(io.BufferedReader, self._zip.fp)
        with self._lock:  # the zip file goes to its own place again before it reads
            stream.seek(0)
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def _checked(self, infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        if len(infos) > MOST_FILES:
            raise self.refused(f"at most {MOST_FILES:,} files", f"{len(infos):,}")
        found: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.filename
            parts = name.removesuffix("/").split("/")
            if info.orig_filename != name or not _is_plain(name) or any(part in ("", ".", "..") for part in parts):
                raise self.refused("paths inside it", f"{info.orig_filename!r}")
            kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
            if kind == stat.S_IFLNK:
                raise self.refused("files", f"the link {name!r}")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise self.refused("files", f"{name!r}, which is none")
            if info.flag_bits & _ENCRYPTED:
                raise self.refused("files that anybody can read", f"the encrypted {name!r}")
            if info.compress_type not in _COMPRESSIONS:
                raise self.refused("files stored or deflated", f"{name!r} in compression {info.compress_type}")
            if name in found:
                raise self.refused("each path once", f"{name!r} twice")
            if not info.is_dir():
                found[name] = info
        packed = sum(info.compress_size for info in infos)
        if packed > self._size:
            raise self.refused(f"files in the {self._size:,} bytes that it has", f"{packed:,} bytes: they overlap")
        unpacked, most = sum(info.file_size for info in infos), max(SMALL, MOST_TIMES * self._size)
        if unpacked > most:
            raise self.refused(f"at most {most:,} bytes in {self._size:,}", f"{unpacked:,}: a zip bomb")
        return found

    def _about(self) -> dict[str, object]:
        if ABOUT not in self._infos:
            raise self.refused(f"a bundle with {ABOUT}", "none; python -m ablate.bundle make writes one")
        try:
            about = read_json(self._content(ABOUT))
            layout, reader = about["layout"], str(about.get("reader", "newer"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.refused(f"a whole {ABOUT}", f"{type(error).__name__}: {error}") from error
        if layout != LAYOUT:
            wants = f"ablate {reader}" if re.fullmatch(r"[0-9A-Za-z.+-]{1,40}", reader) else "a newer ablate"
            raise self.refused(f"bundle layout {LAYOUT}", f"{layout!r}, which wants {wants}")
        return dict(about)

    def _checksums(self) -> dict[str, str]:
        if CHECKSUMS not in self._infos:
            raise self.refused(f"checksums in {CHECKSUMS}", "none")
        found: dict[str, str] = {}
        for number, line in enumerate(self._content(CHECKSUMS).decode("utf-8", "replace").splitlines(), 1):
            match = _LINE.fullmatch(line)
            if match is None:
                raise self.refused("a checksum and a path in each line", f"line {number} of {CHECKSUMS}: {line!r}")
            found[match[2]] = match[1]
        there = self._infos.keys() - {CHECKSUMS}
        if lacking := sorted(found.keys() - there):
            raise self.refused(f"the file {lacking[0]!r} of {CHECKSUMS}", "none")
        if more := sorted(there - found.keys()):
            raise self.refused(f"only files that {CHECKSUMS} names", f"{more[0]!r}")
        return found

    def _content(self, name: str) -> bytes:
        try:
            with self._lock:
                return self._zip.read(self._infos[name])
        except BROKEN_ZIP as error:
            raise self.refused(f"{name!r} to be whole", f"{type(error).__name__}: {error}") from error
        except OSError as error:
            raise self.refused(f"{name!r} to be readable", error.strerror or str(error)) from error


def _is_plain(name: str) -> bool:
    """Whether a path is one on every system: no drive, no other separator, nothing that a terminal would obey."""
    return name.isprintable() and not any(sign in name for sign in '\\:*?"<>|') and len(name) < 1000


def _beside(bundle: Bundle) -> tuple[list[BundleFiles], list[str]]:
    """The bundles that hold trainings of one, in the same folder; and a line for each that is not there, or another."""
    found: list[BundleFiles] = []
    lacking: list[str] = []
    elsewhere = bundle.about.get("elsewhere")
    named = elsewhere.get("bundles") if isinstance(elsewhere, dict) else None
    for name, digest in named.items() if isinstance(named, dict) else ():
        other = bundle.path.with_name(Path(str(name)).name)
        if other.suffix != SUFFIX or not other.is_file():
            lacking.append(f"expected {other.name} beside {bundle.path.name}, which holds trainings of it, got none")
            continue
        files = BundleFiles(other, alone=True)
        if files.bundle.digest() == digest:
            found.append(files)
        else:
            lacking.append(f"expected the {other.name} that {bundle.path.name} was made beside, got another")
    return found, lacking


class _Inside(ReadOnlyFiles):
    """The storage in a bundle alone, as `BundleFiles` shows it."""

    def __init__(self, bundle: Bundle) -> None:
        self.location = str(bundle.path)
        self._bundle = bundle
        self._folders: dict[str, set[str]] = {}
        for name in bundle.names():
            folder, _, rest = name.partition("/")
            while folder == FOLDER and rest:
                above, _, last = rest.rpartition("/")
                self._folders.setdefault(above, set()).add(last)
                rest = above

    def read(self, path: str) -> bytes | None:
        """See `Files`."""
        return self._bundle.read(f"{FOLDER}/{path}")

    def list(self, path: str) -> list[str]:
        """See `Files`."""
        return sorted(self._folders.get(path.strip("/"), ()))

    def size(self, path: str) -> int | None:
        """See `Files`."""
        return self._bundle.size(f"{FOLDER}/{path}")


class BundleFiles(ReadOnlyFiles):
    """The storage in a bundle, read-only, with what others beside it hold of it; as of `ablate.storage.files.Files`.

    Args:
        path: Of the bundle.
        alone: Without the others.

    Attributes:
        bundle: The file itself.
        lacking: A line for each of the others that is not there.

    Raises:
        StorageError: As of `Bundle`.
    """

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        self.location = str(path)
        self.bundle = Bundle(path)
        others, self.lacking = ([], []) if alone else _beside(self.bundle)
        self._own = _Inside(self.bundle)
        self._files = LayeredFiles(self._own, *others)
        self.conflicts = self._files.conflicts

    def read(self, path: str) -> bytes | None:
        """See `Files`."""
        return self._files.read(path)

    def list(self, path: str) -> list[str]:
        """See `Files`."""
        # Of which plans it is, and no other.
        return (self._own if path.strip("/") == "plans" else self._files).list(path)

    def size(self, path: str) -> int | None:
        """See `Files`."""
        return self._files.size(path)

    def delete(self, path: str) -> None:
        """Refused, but of what is not there: see `Files`."""
        if self.size(path) is not None:
            raise self.refusal(path)

    def refusal(self, path: str) -> StorageError:
        """See `ReadOnlyFiles`."""
        return StorageError(
            f"--storage {self.location}: expected {path} to be writable, got a bundle, which is only read; "
            f"python -m ablate.launch --also {self.location} goes on from it in a storage of its own"
        )


def bundles_in(folder: Path, pattern: str = f"*{SUFFIX}") -> list[Path]:
    """The bundles in a folder, by name; none where it is no folder, or where they are only being written.

    Args:
        folder: Where they lie.
        pattern: Of their names.
    """
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith(".") and path.is_file())


def write_bundle(path: Path, contents: Iterable[tuple[str, bytes]]) -> int:
    """Write a bundle; the same contents give the same bytes, with the same zlib.

    Args:
        path: Replaced where it is there.
        contents: Name -> content, in any order of names; `CHECKSUMS` is added.

    Raises:
        StorageError: It cannot be written.
    """
    beside = path.with_name(f".tmp-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sums = []
        with zipfile.ZipFile(beside, "w") as made:
            for name, content in contents:
                made.writestr(_info(name), content)
                sums.append(f"{sha256(content)}  {name}\n")
            made.writestr(_info(CHECKSUMS), "".join(sorted(sums, key=lambda line: line[66:])))
        beside.replace(path)
        return path.stat().st_size
    except OSError as error:
        raise StorageError(f"expected to write {path}, got {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    # What is packed already would not get smaller.
    info.compress_type = zipfile.ZIP_STORED if name.endswith((".npz", ".pt", ".png")) else zipfile.ZIP_DEFLATED
    info._compresslevel = 9  # type: ignore[attr-defined]  # `writestr` takes it from there
    info.create_system = _UNIX
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info
