"""When a launch ends by the clock, and who is told of its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from threading import Timer
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ablate.core.errors import UserError
from ablate.core.text import plural

if TYPE_CHECKING:
    from ablate.planning.plan import Plan


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[threading.Event]:
    """End what runs within when its time is up, as a preemption does: by SIGTERM, in order, with everything kept.

    Args:
        seconds: From now; None: never.

    Yields:
        Set once the time is up.

    Raises:
        UserError: A limit where no signal can arrive: outside the main thread.
    """
    up, lock, closed = threading.Event(), threading.Lock(), False
    if seconds is None:
        yield up
        return
    if threading.current_thread() is not threading.main_thread():
        raise UserError("--max-hours: expected a launch in the main thread of its process, got another thread")
    main = threading.get_ident()

    def end() -> None:
        with lock:
            if not closed:  # else the signal would meet whoever handles it by then
                up.set()
                signal.pthread_kill(main, signal.SIGTERM)

    timer = Timer(max(0.0, seconds), end)
    timer.daemon = True
    timer.start()
    try:
        yield up
    finally:
        timer.cancel()
        with lock:
            closed = True


def end_summary(plan: Plan) -> str:
    """How a launch left its trainings: `4 trainings finished, 1 failed, 2 to go`."""
    counts = plan.counts()
    done, failed = counts.get("reuse", 0) + counts.get("stopped", 0), counts.get("failed", 0)
    parts = [f"{plural(done, 'training')} finished"]
    parts += [f"{failed:,} failed"] if failed else []
    left = sum(counts.values()) - done - failed
    return ", ".join([*parts, *([f"{left:,} to go"] if left else [])])


def run_on_end(command: str, variables: Mapping[str, str], console: Console, *, to_stderr: bool = False) -> None:
    """Run a user's command at the end of a launch; whatever becomes of it, the launch has ended as it has.

    Args:
        command: For the shell.
        variables: More variables of its environment.
        console: Where its failure is told.
        to_stderr: Whether what it prints must not mix with what this process prints.
    """
    try:
        sys.stdout.flush()
        out = sys.stderr.fileno() if to_stderr else None
        code = subprocess.run(command, shell=True, env={**os.environ, **variables}, stdout=out, check=False).returncode
    except OSError as error:
        console.print(Text(f"--on-end: expected a command that runs, got {error.strerror}", overflow="fold"))
        return
    if code:
        console.print(f"--on-end: expected a command that ends with exit code 0, got {code}")
