"""Files that are only read: what would change one is refused."""

from __future__ import annotations

from ablate.core.errors import StorageError


class ReadOnlyFiles:
    """The half of `ablate.storage.files.Files` that writes, refused; how files are read stands beside it."""

    location: str

    def refusal(self, path: str) -> StorageError:
        """What is told of a write to a path."""
        return StorageError(f"--storage {self.location}: expected {path} to be read alone, got a write to it")

    def write(self, path: str, content: bytes) -> None:
        """Refused: see `Files`."""
        raise self.refusal(path)

    def create(self, path: str, content: bytes) -> bool:
        """Refused: see `Files`."""
        raise self.refusal(path)

    def delete(self, path: str) -> None:
        """Refused: see `Files`."""
        raise self.refusal(path)

    def probe(self) -> None:
        """Refused: see `Files`."""
        raise self.refusal("a folder there")
