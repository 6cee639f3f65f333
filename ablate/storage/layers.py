"""Files of several places seen as those of one, and a folder of files seen as a whole."""

from __future__ import annotations

import builtins

from ablate.storage.files import Files


class LayeredFiles:
    """As of `ablate.storage.files.Files`; what is in several places is read from the first of them.

    Args:
        first: Where it is written.
        others: Which are only read.
    """

    def __init__(self, first: Files, *others: Files) -> None:
        self.location = first.location
        self._first = first
        self._all = (first, *others)

    def read(self, path: str) -> bytes | None:
        """See `Files`."""
        return next((content for files in self._all if (content := files.read(path)) is not None), None)

    def write(self, path: str, content: bytes) -> None:
        """See `Files`."""
        self._first.write(path, content)

    def create(self, path: str, content: bytes) -> bool:
        """See `Files`; there are none of the others' names to be had."""
        return self.size(path) is None and self._first.create(path, content)

    def list(self, path: str) -> builtins.list[str]:
        """See `Files`."""
        return sorted({name for files in self._all for name in files.list(path)})

    def size(self, path: str) -> int | None:
        """See `Files`."""
        return next((size for files in self._all if (size := files.size(path)) is not None), None)

    def delete(self, path: str) -> None:
        """See `Files`; what others have stays."""
        self._first.delete(path)

    def probe(self) -> None:
        """See `Files`."""
        self._first.probe()


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
