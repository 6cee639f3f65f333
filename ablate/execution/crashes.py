"""What is left of a process that a signal killed: stacks behind its training's log, told in one line."""

from __future__ import annotations

import contextlib
import faulthandler
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ablate.core.errors import StorageError
from ablate.storage.files import LocalFiles
from ablate.storage.storage import Storage

_SAID = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Illegal instruction": "SIGILL",
    "Floating point exception": "SIGFPE",
    "Floating-point exception": "SIGFPE",
}


def signal_in(text: str) -> str | None:
    """The signal that `faulthandler` wrote at the end of a log; None where it wrote none."""
    said = _SAID.findall(text)
    return _SIGNALS.get(said[-1].strip(), said[-1].strip()) if said else None


def death(storage: Storage, key: str) -> str | None:
    """How the process of a training's latest attempt died, in one line.

    Returns:
        The signal and the log with its stacks; None where it left none.
    """
    try:
        place, text = storage.log(key)
    except StorageError:
        return None
    number = signal_in(text)
    return None if number is None else f"its process died of {number}; stacks at the end of {place}"


def how_lost(storage: Storage, key: str) -> str:
    """How a process ended that could not say it itself, in one line."""
    found = death(storage, key)
    if found is not None:
        return found
    with contextlib.suppress(StorageError):
        place, _ = storage.log(key)
        if place:
            return f"its process was killed (SIGKILL, as when memory runs out) or its node lost; log: {place}"
    return "its process was killed (SIGKILL, as when memory runs out) or its node lost"


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Leave `faulthandler` off at the end if it was: trainings that take turns each find it as another has it."""
    enabled = faulthandler.is_enabled()
    try:
        yield
    finally:
        if not enabled:
            faulthandler.disable()


class Stacks:
    """Has `faulthandler` write behind an attempt's log; in a bucket, into a file of this machine's temporary folder.

    Args:
        storage: Of the training.
        log: The log's path in it.
    """

    def __init__(self, storage: Storage, log: str) -> None:
        files = storage.files
        name = log.replace("/", "-")
        self.path = files.root / log if isinstance(files, LocalFiles) else Path(tempfile.gettempdir(), f"ablate-{name}")
        self._file: IO[bytes] | None = None
        self._over = False

    def follow(self) -> None:
        """Open the log that was stored last: each one is a new file in the place of the one before."""
        if self._over:
            return
        with contextlib.suppress(OSError):
            before, self._file = self._file, self.path.open("ab")
            self.enable()
            if before is not None:
                before.close()

    def enable(self) -> None:
        """From now on stacks go there: of several trainings in a process, those of the one whose turn it is."""
        if self._file is not None:
            faulthandler.enable(self._file)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Leave `faulthandler` as it was found, at the end."""
        enabled = faulthandler.is_enabled()
        try:
            yield
        finally:
            self._over = True
            faulthandler.disable()
            if enabled and sys.__stderr__ is not None:
                with contextlib.suppress(OSError, ValueError):
                    faulthandler.enable(sys.__stderr__)
            if self._file is not None:
                self._file.close()
                self._file = None
                if self.path.name != "log.txt" and self.path.stat().st_size == 0:
                    self.path.unlink(missing_ok=True)
