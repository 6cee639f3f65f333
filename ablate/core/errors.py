"""Errors a user can cause: one clear message each, exit code 2, never a traceback."""

from __future__ import annotations

import difflib
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
        `did you mean 'x'?` where one is close, else the list of valid names.
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "valid: " + ", ".join(names)
