"""Errors a user can cause: one clear message each, exit code 2, never a traceback."""

from __future__ import annotations

import difflib
import re
import shlex
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

_LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "pyarrow", "ray", "mlflow")


class UserError(Exception):
    """Something the user gave cannot be used; the message says what was expected and what came."""


class SpecError(UserError):
    """A setting, space file or preset that is refused."""


class DataError(UserError):
    """A data set that is missing, empty or corrupt."""


class StorageError(UserError):
    """Storage that cannot be read or written."""


class LeaseError(StorageError):
    """A lease that another launch has taken over; whoever lost it stops, and writes nothing more."""


class TrackingError(UserError):
    """An MLflow store that does not answer or cannot be used."""


class DeviceError(UserError):
    """A GPU that failed the process for good; another process may go on from the last checkpoint."""


class MeasurementError(UserError):
    """A measurement whose attack or network handed over what cannot be counted."""


def place_of(error: BaseException) -> str:
    """Where in the user's own code an error came from.

    Args:
        error: As caught.

    Returns:
        ` (file:line)` of the innermost line that is neither ours nor a library's; empty where none is.
    """
    libraries = [Path(__file__).parent.parent, Path(sysconfig.get_path("stdlib"))]
    for name in _LIBRARIES:
        found = getattr(sys.modules.get(name), "__file__", None)
        libraries += [Path(found).parent] if found else []
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(library) for library in libraries):
            return f" ({path}:{frame.lineno})"
    return ""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The sentence that points a mistyped name to the valid ones.

    Args:
        name: What was given.
        valid: The names that would have been accepted.

    Returns:
        `did you mean 'x'?` where one is close, else the list of valid names, or that there are none.
    """
    names = sorted(valid)
    meant = meant_name(name, names)
    if meant is not None:
        return f"did you mean {meant!r}?"
    return f"valid: {', '.join(names)}" if names else "there is none"


def each_on_its_own(option: str, given: str, valid: Iterable[str]) -> str | None:
    """The sentence for names with commas between, where the option is given once for each.

    Args:
        option: `--row`.
        given: What was given, which is no name.
        valid: The names that would have been accepted.

    Returns:
        `did you mean --row 64 --row 128?`; None where that is not what was meant.
    """
    parts, names = [part.strip() for part in given.split(",")], set(valid)
    if len(parts) < 2 or not all(part in names for part in parts):
        return None
    return f"did you mean {' '.join(f'{option} {shlex.quote(part)}' for part in parts)}?"


def meant_name(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name that was probably meant: the same but for case and signs, close, of these initials (`lr`), or a part.

    Args:
        name: What was given.
        names: The names that would have been accepted.
        cutoff: How close, from 0 to 1.

    Returns:
        None where none or several may be meant.
    """
    names = list(names)
    own, plain = _plain(name), {each: _plain(each) for each in names}
    initials = {each: "".join(word[:1] for word in re.split(r"[\W_]+", each)).casefold() for each in names}
    same = [each for each in names if own and plain[each] == own]
    close = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    short = [each for each in names if len(own) > 1 and initials[each] == own]
    begun = [
        each
        for each in names
        if min(len(own), len(plain[each])) > 2 and (plain[each].startswith(own) or own.startswith(plain[each]))
    ]
    return next((found[0] for found in (same, close, short, begun) if len(found) == 1), None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
