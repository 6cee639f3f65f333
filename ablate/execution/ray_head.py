"""A Ray whose head has died: the launch ends in order, within seconds.

Ray itself waits a minute for its head to come back, and then ends the process with a line of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from ablate.core.errors import UserError

LOOK_S = 1.0
"""How often it is looked at; also how long it may take to answer."""

PATIENCE_S = 6.0
"""For how long nothing may answer: a short break of the network is no death."""


LEAVE_S = 15.0
"""How long the main thread may take to break off. One that waits in Ray's own code for the head hears of nothing before
Ray ends the process, a minute later and in its own words."""


class HeadLost(KeyboardInterrupt):
    """Ray's head is gone: the launch ends as Ctrl-C ends it."""


INTERRUPTED = 130
leave = os._exit
"""Ends the process without a word to threads that never answer."""


def answers(address: str) -> bool:
    """Whether somebody listens at an address such as 10.0.0.1:6379."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_S):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def watching(address: str, note: Callable[[str], None]) -> Iterator[None]:
    """Break off what this block does when Ray's head is gone; outside the main thread it is told alone.

    Args:
        address: Where the head listens.
        note: Told that it is gone, once.

    Raises:
        HeadLost: It is gone.
    """
    main = threading.main_thread()
    breakable = threading.current_thread() is main and hasattr(signal, "SIGUSR2")
    over, lost, began_to_leave = threading.Event(), threading.Event(), 0.0
    said = f"Ray's head at {address} is gone; the same command goes on once it is there again."

    def look() -> None:
        nonlocal began_to_leave
        heard = time.monotonic()
        while not over.wait(LOOK_S):
            if answers(address):
                heard = time.monotonic()
            elif time.monotonic() - heard >= PATIENCE_S and not over.is_set():
                if not lost.is_set():
                    began_to_leave = time.monotonic()
                    lost.set()
                    note(said)
                if breakable and time.monotonic() - began_to_leave >= LEAVE_S:
                    # All that is trained lies in storage, and nothing else is to be saved.
                    for stream in (sys.stdout, sys.stderr):
                        with contextlib.suppress(OSError, ValueError):
                            stream.flush()
                    leave(INTERRUPTED)
                # Again at every look: a library may have swallowed the one before.
                if breakable and main.ident is not None:
                    signal.pthread_kill(main.ident, signal.SIGUSR2)

    def stop(signum: int, frame: FrameType | None) -> None:
        if lost.is_set() and not over.is_set():
            raise HeadLost

    before = signal.signal(signal.SIGUSR2, stop) if breakable else None
    thread = threading.Thread(target=look, name="head", daemon=True)
    thread.start()
    try:
        yield
    except Exception as error:
        # Ray's own words for it may come first.
        if isinstance(error, UserError) or (not lost.is_set() and answers(address)):
            raise
        over.set()
        if not lost.is_set():
            note(said)
        raise HeadLost from error
    finally:
        over.set()
        thread.join()
        if breakable:
            signal.signal(signal.SIGUSR2, before)
