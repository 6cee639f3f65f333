"""Places that a user names: folders and files, where `~` is home, and addresses, which are whole or refused."""

from __future__ import annotations

import re
from pathlib import Path

from ablate.core.errors import SpecError
from ablate.core.redaction import redact

_WHOLE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BEGUN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_KNOWN = "s3|gs|gcs|abfs|abfss|hdfs|viewfs|file|http|https"
# Of these schemes also what nobody calls a folder: s3:bucket, s3//bucket.
_SLIPPED = re.compile(rf"({_KNOWN})(?::|//)", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Whether a place is a whole address, `scheme://...`, and not a path."""
    return _WHOLE.match(text) is not None


def local_path(text: str | Path, option: str) -> Path:
    """A path of this machine.

    Args:
        text: As given; `~` and `~name` are home folders.
        option: What gave it, for messages.

    Returns:
        The path, with home in place of `~`.

    Raises:
        SpecError: An address, also half an address, or the home of nobody.
    """
    text = str(text)
    refuse_half_written(text, option, "a path of this machine")
    if is_address(text):
        raise SpecError(f"{option}: expected a path of this machine, got the address {redact(text)!r}")
    if not text.startswith("~"):
        return Path(text)  # ./~ is a folder of that name, which Path would take for home
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise SpecError(
            f"{option}: expected a path, got {text!r}, the home folder of nobody here; a folder of that name is "
            f"{'./' + text!r}"
        ) from error


def refuse_half_written(text: str, option: str, expected: str) -> None:
    """Refuse `s3:/bucket` and the like, which would be a folder called `s3:`.

    Args:
        text: As given.
        option: What gave it, for messages.
        expected: What it should be, for messages.

    Raises:
        SpecError: It is half an address; a folder of that name is asked for with `./` before it.
    """
    begun = None if is_address(text) else _BEGUN.match(text) or _SLIPPED.match(text)
    if begun is not None:
        scheme = begun[1].lower()
        whole = f"{scheme}://{'/' if scheme == 'file' else ''}{text[begun.end() :].lstrip('/')}"
        raise SpecError(f"{option}: expected {expected}, got {redact(text)!r}; did you mean {redact(whole)!r}?")
