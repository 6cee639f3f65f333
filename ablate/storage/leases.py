"""Who trains what: leases on training keys, so that launches that overlap train nothing twice.

    <storage>/claims/<training_key>/<number>.json    created exclusively; the highest number is in force
    <storage>/claims/owners/<launch>.json            the launch's heartbeat counter

A training's lease is taken when it starts, by its worker in its launch's name: what only waits for its turn is
nobody's, and several launches of one plan share its work. A lease names its launch. A launch whose counter an observer
has not seen change for `EXPIRY_S` of the observer's own clock is dead: clocks of different machines are never compared.
On the observer's own machine its process is looked up, so that the same command goes on at once after kill -9. Taking
over creates the next number, which only one of many can do.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from ablate.core.errors import StorageError
from ablate.storage.checksums import read_json
from ablate.storage.files import Files

HEARTBEAT_S = 3.0
EXPIRY_S = 20.0
# One process's start is not always told alike twice: sandboxes work it out from two clocks. A process id is not given
# again within this time either.
_SAME_START_TICKS = 500
_OWNER = re.compile(r"[0-9A-Za-z_-]+")  # a file's name is made of it
_NUMBER = re.compile(r"(\d+)\.json")


def _machine() -> list[str]:
    """What tells apart the places where a process id means something: this boot, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [boot, str(Path("/proc/self/ns/pid").readlink())]
    except OSError:  # not Linux: the heartbeat alone decides
        return ["", ""]


def _started(process_id: int) -> int | None:
    """When a process of this machine started, in clock ticks since boot; None where there is none.

    Raises:
        OSError: It cannot be told.
    """
    try:
        return int(Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _own_start() -> int | None:
    try:
        return _started(os.getpid())
    except (OSError, ValueError, IndexError):
        return None


def dead_here(heartbeat: str) -> bool:
    """Whether a heartbeat is of a process of this machine that is no more."""
    try:
        boot, namespace, process_id, then = read_json(heartbeat)["process"]
        if not boot or then is None or [boot, namespace] != _machine():
            return False
        now = _started(process_id)
        return now is None or abs(now - int(then)) > _SAME_START_TICKS
    except (ValueError, KeyError, TypeError, OSError, IndexError):
        return False  # what cannot be looked up is decided by the heartbeat


def highest(files: Files, key: str) -> int:
    """The number of the lease in force; 0 without any."""
    names = (_NUMBER.fullmatch(name) for name in files.list(f"claims/{key}"))
    return max((int(name[1]) for name in names if name), default=0)  # a network drive adds files of its own


def owner_of(files: Files, key: str, number: int) -> str | None:
    """Who made a lease; None where it was given back, or cannot be read: nobody could be asked."""
    try:
        owner = read_json(files.read(path_of(key, number)))["owner"]
    except (ValueError, KeyError, TypeError):
        return None
    return owner if isinstance(owner, str) and _OWNER.fullmatch(owner) else None


def path_of(key: str, number: int) -> str:
    """Where a lease lies."""
    return f"claims/{key}/{number:06d}.json"


def in_force(files: Files, key: str, number: int) -> bool:
    """Whether a lease is still its maker's: none came after it, and it was not given back.

    Who works for a launch asks this before it writes: the launch may have been paused until another one took over.
    """
    return highest(files, key) == number and owner_of(files, key, number) is not None


def held(files: Files, key: str) -> bool:
    """Whether a launch that may be alive holds a lease; only one of this machine is known to be gone at once."""
    number = highest(files, key)
    owner = owner_of(files, key, number) if number else None
    return owner is not None and not _gone(_heartbeat(files, owner))


def take(files: Files, key: str, owner: str, free: int = 0) -> int | None:
    """Take the lease of what a launch asks a worker to do, in the launch's name.

    Args:
        files: The storage's files.
        key: Of what is leased.
        owner: The launch. What it holds already is taken anew, so that a lost worker that still runs is shut out.
        free: The highest lease that the launch knows to be free.

    Returns:
        The new lease's number; None where another launch holds it.

    Raises:
        StorageError: Storage cannot be written, or cannot create exclusively.
    """
    number = highest(files, key)
    if number > free:
        held = owner_of(files, key, number)
        if held is not None and held != owner and not _gone(_heartbeat(files, held)):
            return None
    return _create(files, key, number + 1, owner)


def give_back(files: Files, key: str, number: int) -> None:
    """Give a lease back, unless somebody has taken it over."""
    if highest(files, key) == number:
        files.write(path_of(key, number), json.dumps({"owner": None}).encode())


def _create(files: Files, key: str, number: int, owner: str) -> int | None:
    created = files.create(path_of(key, number), json.dumps({"owner": owner}).encode())
    return number if created and highest(files, key) == number else None


def _heartbeat(files: Files, owner: str) -> str | None:
    content = files.read(f"claims/owners/{owner}.json")
    return None if content is None else content.decode(errors="replace")


def _gone(heartbeat: str | None) -> bool:
    """Whether an owner is certainly no more: its launch ended in order, or its process was one of this machine."""
    return heartbeat is None or dead_here(heartbeat)


class Leases:
    """The leases one launch holds, and its view of others'.

    Args:
        files: The storage's files.
        clock: Seconds, monotonic; a test brings its own.
        heartbeat_s: Between two beats; `HEARTBEAT_S` by default.
        expiry_s: How long an owner's counter may stand still; `EXPIRY_S` by default.
    """

    def __init__(
        self,
        files: Files,
        clock: Callable[[], float] = time.monotonic,
        heartbeat_s: float | None = None,
        expiry_s: float | None = None,
    ) -> None:
        self._files = files
        self._clock = clock
        self._heartbeat_s = HEARTBEAT_S if heartbeat_s is None else heartbeat_s
        self._expiry_s = EXPIRY_S if expiry_s is None else expiry_s
        self.owner = uuid.uuid4().hex
        self._process = [*_machine(), os.getpid(), _own_start()]
        self._count = 0
        self._held: dict[str, int] = {}
        self._seen: dict[str, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Leases:
        self.beat()
        self._thread = threading.Thread(target=self._beat_on, name="lease-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for key in list(self._held):
            self.release(key)
        self._files.delete(self._owner_path(self.owner))

    def beat(self) -> None:
        """Raise this launch's counter."""
        self._count += 1
        self._files.write(
            self._owner_path(self.owner), json.dumps({"count": self._count, "process": self._process}).encode()
        )

    def _beat_on(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            try:
                self.beat()
            except StorageError:
                continue  # storage may come back; if it stays away, others rightly take over

    def acquire(self, key: str) -> bool:
        """Lease a training for this launch.

        Returns:
            False while another live launch holds it.

        Raises:
            StorageError: Storage cannot be written, or cannot create exclusively.
        """
        if self.holds(key):
            return True
        self._held.pop(key, None)  # lost, while this process was paused
        number = highest(self._files, key)
        if number and not self._free(key, number):
            return False
        mine = _create(self._files, key, number + 1, self.owner)
        if mine is None:
            return False
        self._held[key] = mine
        return True

    def holds(self, key: str) -> bool:
        """Whether this launch's lease is in force.

        Returns:
            False too where it was taken over, as it is when this process was paused for longer than a lease lives.
        """
        return key in self._held and in_force(self._files, key, self._held[key])

    def free(self, key: str) -> int | None:
        """The highest lease of a training, where it is free: a worker may take the next in this launch's name.

        Returns:
            None while another live launch holds it.
        """
        number = highest(self._files, key)
        return number if not number or self._free(key, number) else None

    def taken(self, key: str) -> bool:
        """Whether a lease that a worker of this launch took is in force."""
        return owner_of(self._files, key, highest(self._files, key)) == self.owner

    def acquire_or_tell(self, key: str, waiting: Callable[[], None]) -> bool:
        """Lease what only one launch may hold, and wait for as long as it takes to tell whether its owner lives.

        Args:
            key: Of what is leased.
            waiting: Called once, where there is an owner who may be dead.

        Returns:
            False where another launch holds it and its counter moves.

        Raises:
            StorageError: As of `acquire`.
        """
        return not self._alive(key, lambda: not self.acquire(key), waiting)

    def alive_elsewhere(self, key: str, waiting: Callable[[], None]) -> bool:
        """Whether a living launch holds what only one may; waits as long as it takes to tell, and writes nothing.

        Args:
            key: Of what is leased.
            waiting: Called once, where there is an owner who may be dead.

        Returns:
            True where another launch holds it and its counter moves.
        """
        return self._alive(key, lambda: self.held_elsewhere(key), waiting)

    def _alive(self, key: str, held: Callable[[], bool], waiting: Callable[[], None]) -> bool:
        """Whether what is held stays so while its owner's counter moves; waits as long as that takes to tell."""
        first = None
        while held():
            now = self._heartbeat_of(key)
            if first is None:
                first = now
                waiting()
            elif now != first:
                return held()  # it may have been given back, which changes the counter as well
            time.sleep(min(1.0, self._heartbeat_s))
        return False

    def _heartbeat_of(self, key: str) -> tuple[str | None, bytes | None]:
        """Who holds a lease, and its counter."""
        owner = owner_of(self._files, key, highest(self._files, key))
        return owner, None if owner is None else self._files.read(self._owner_path(owner))

    def release(self, key: str) -> None:
        """Give a lease back."""
        number = self._held.pop(key, None)
        if number is not None:
            give_back(self._files, key, number)

    def release_taken(self, key: str) -> None:
        """Give back what a worker of this launch took and cannot give back: its process was lost."""
        number = highest(self._files, key)
        if owner_of(self._files, key, number) == self.owner:
            give_back(self._files, key, number)

    def held_elsewhere(self, key: str) -> bool:
        """Whether another live launch holds a training.

        Returns:
            False too once its owner's counter stood still long enough.
        """
        if self.holds(key):
            return False
        number = highest(self._files, key)
        return bool(number) and not self._free(key, number)

    def _free(self, key: str, number: int) -> bool:
        owner = owner_of(self._files, key, number)
        if owner is None or owner == self.owner:
            return True
        count = _heartbeat(self._files, owner)
        if _gone(count) or count is None:
            return True
        seen, since = self._seen.get(owner, (None, 0.0))
        if seen != count:
            self._seen[owner] = (count, self._clock())
            return False
        return self._clock() - since > self._expiry_s

    @staticmethod
    def _owner_path(owner: str) -> str:
        return f"claims/owners/{owner}.json"
