"""JSON that carries its own checksum, and reading of what somebody may have damaged."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.storage.files import Files

SEAL = "sha256"
"""The field with the checksum of all others; files of versions before 0.2 have none, and are read as they are."""

BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
"""What a zip file raises that was damaged, or that nobody here can read; and `OSError`, as every file."""


def sha256(content: bytes) -> str:
    """The SHA-256 of a file's content, as manifests name it."""
    return hashlib.sha256(content).hexdigest()


def verified(files: Files, path: str, checksum: str) -> bytes | None:
    """A file's content; None where there is none, or another than was written."""
    content = files.read(path)
    return content if content is not None and sha256(content) == checksum else None


def read_json(content: bytes | str | None) -> Any:
    """JSON, of whatever origin.

    Args:
        content: The text; none is no JSON.

    Raises:
        ValueError: It is none, or nested deeper than Python reads.
    """
    try:
        return json.loads(content or b"")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Add the checksum of a file's content.

    Args:
        content: Plain data.

    Returns:
        The content with `sha256`, to be written as JSON in any layout of lines.
    """
    return {**content, SEAL: _sum(content)}


def unseal(content: bytes | str | None) -> dict[str, Any]:
    """The content of a sealed file.

    Args:
        content: JSON of an object; without a checksum it is taken as it is.

    Returns:
        The object without its checksum.

    Raises:
        ValueError: It is no JSON of an object, or was changed since it was written.
    """
    found = read_json(content)
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, got {type(found).__name__}")
    if SEAL in found:
        given = found.pop(SEAL)
        if given != _sum(found):
            raise ValueError("its checksum does not hold: it was changed or damaged after it was written")
    return found


def _sum(content: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return sha256(text.encode())
