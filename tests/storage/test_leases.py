"""Leases: of launches that overlap one trains, and a dead one is followed by exactly one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.core.errors import StorageError
from ablate.storage import leases
from ablate.storage.files import LocalFiles
from ablate.storage.leases import EXPIRY_S, Leases

KEY = "ab" * 10


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path)


@pytest.fixture
def launch(files: LocalFiles) -> Callable[..., Leases]:
    def launch(clock: Clock | None = None) -> Leases:
        leases = Leases(files, clock=clock or Clock())
        leases.beat()
        return leases

    return launch


def test_one_of_two_leases_and_the_other_sees_it(launch: Callable[..., Leases]) -> None:
    first, second = launch(), launch()
    assert not second.held_elsewhere(KEY)
    assert first.acquire(KEY)
    assert first.acquire(KEY)  # its own stays its own
    assert not second.acquire(KEY)
    assert second.held_elsewhere(KEY)
    assert not first.held_elsewhere(KEY)
    assert second.acquire("cd" * 10)  # another training is free


def test_released_lets_the_next_in(launch: Callable[..., Leases]) -> None:
    first, second = launch(), launch()
    for _ in range(3):
        assert first.acquire(KEY)
        assert not second.acquire(KEY)
        first.release(KEY)
        first.release(KEY)  # what is not held is nothing to release
        assert not second.held_elsewhere(KEY)
        assert second.acquire(KEY)
        assert first.held_elsewhere(KEY)
        second.release(KEY)


def test_a_launch_that_ended_in_order_leaves_nothing_leased(files: LocalFiles, launch: Callable[..., Leases]) -> None:
    with Leases(files) as leases:
        assert leases.acquire(KEY)
    assert files.list("claims/owners") == []
    assert launch().acquire(KEY)


def test_a_heartbeat_keeps_the_lease_however_long_it_takes(launch: Callable[..., Leases]) -> None:
    clock = Clock()
    owner, observer = launch(), launch(clock)
    assert owner.acquire(KEY)
    for _ in range(20):
        clock.now += EXPIRY_S * 0.9
        owner.beat()
        assert observer.held_elsewhere(KEY)
        assert not observer.acquire(KEY)


def test_a_dead_owners_lease_expires_on_the_observers_own_clock(launch: Callable[..., Leases]) -> None:
    owner_clock, clock = Clock(1e9), Clock(5.0)  # clocks of two machines have nothing to do with each other
    owner, observer = launch(owner_clock), launch(clock)
    assert owner.acquire(KEY)
    clock.now = 1e6  # however long ago the owner died, it is watched for the whole time
    assert observer.held_elsewhere(KEY)
    clock.now += EXPIRY_S
    assert observer.held_elsewhere(KEY)
    clock.now += 0.1
    assert not observer.held_elsewhere(KEY)
    assert observer.acquire(KEY)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="process ids are looked up on Linux only")
def test_a_process_killed_on_this_machine_is_followed_at_once(files: LocalFiles, launch: Callable[..., Leases]) -> None:
    code = (
        "import sys; from pathlib import Path; from ablate.storage.leases import Leases;"
        "from ablate.storage.files import LocalFiles;"
        "leases = Leases(LocalFiles(Path(sys.argv[1]))); leases.beat(); print(leases.acquire(sys.argv[2]), flush=True);"
        "sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(files.root), KEY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "True\n"
    observer = launch()
    assert observer.held_elsewhere(KEY)
    owner.kill()
    owner.communicate()
    assert not observer.held_elsewhere(KEY)
    assert observer.acquire(KEY)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="process ids are looked up on Linux only")
@pytest.mark.parametrize(
    ("part", "value", "dead"), [(0, "another boot", False), (1, "pid:[1]", False), (3, -1_000_000, True)]
)
def test_only_a_process_of_this_machine_is_looked_up(
    files: LocalFiles, launch: Callable[..., Leases], part: int, value: str, dead: bool
) -> None:
    owner, observer = launch(), launch()
    assert owner.acquire(KEY)
    path = f"claims/owners/{owner.owner}.json"
    heartbeat = json.loads(files.read(path) or b"")
    heartbeat["process"][part] = value
    for process_id in (heartbeat["process"][2], 2**40):  # one that lives here, and one that does not
        heartbeat["process"][2] = process_id
        files.write(path, json.dumps(heartbeat).encode())
        assert observer.held_elsewhere(KEY) != dead


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="process ids are looked up on Linux only")
def test_a_worker_takes_what_a_dead_launch_held_and_nothing_of_a_living_one(
    files: LocalFiles, launch: Callable[..., Leases]
) -> None:
    owner = launch()
    assert owner.acquire(KEY)
    assert leases.take(files, KEY, "another") is None
    path = f"claims/owners/{owner.owner}.json"
    heartbeat = json.loads(files.read(path) or b"")
    heartbeat["process"][2] = 2**40
    files.write(path, json.dumps(heartbeat).encode())
    taken = leases.take(files, KEY, "another")
    assert taken is not None and leases.in_force(files, KEY, taken) and not owner.holds(KEY)
    assert leases.take(files, KEY, "a third") == taken + 1  # whose heartbeat nobody ever saw


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="process ids are looked up on Linux only")
def test_a_start_told_a_little_differently_is_the_same_process(
    files: LocalFiles, launch: Callable[..., Leases]
) -> None:
    owner, observer = launch(), launch()
    assert owner.acquire(KEY)
    path = f"claims/owners/{owner.owner}.json"
    heartbeat = json.loads(files.read(path) or b"")
    for off in (-3, 3):
        files.write(
            path,
            json.dumps(heartbeat | {"process": [*heartbeat["process"][:3], heartbeat["process"][3] + off]}).encode(),
        )
        assert observer.held_elsewhere(KEY)


def test_an_owner_that_was_only_slow_starts_the_time_anew(launch: Callable[..., Leases]) -> None:
    clock = Clock()
    owner, observer = launch(), launch(clock)
    assert owner.acquire(KEY)
    assert observer.held_elsewhere(KEY)
    clock.now += EXPIRY_S - 1
    owner.beat()
    assert observer.held_elsewhere(KEY)
    clock.now += EXPIRY_S - 1
    assert observer.held_elsewhere(KEY)


def test_an_owner_that_comes_back_after_the_takeover_harms_nothing(launch: Callable[..., Leases]) -> None:
    clock = Clock()
    owner, observer, third = launch(), launch(clock), launch()
    assert owner.acquire(KEY)
    assert observer.held_elsewhere(KEY)
    clock.now += EXPIRY_S + 1
    assert observer.acquire(KEY)
    owner.beat()
    owner.release(KEY)  # of its old lease; the one in force stays
    assert third.held_elsewhere(KEY)
    assert not third.acquire(KEY)
    assert not owner.acquire(KEY)


def race(launches: list[Leases]) -> list[Leases]:
    barrier = threading.Barrier(len(launches))
    won: list[Leases] = []

    def lease(leases: Leases) -> None:
        barrier.wait()
        if leases.acquire(KEY):
            won.append(leases)

    threads = [threading.Thread(target=lease, args=(leases,)) for leases in launches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


def test_of_many_that_lease_at_once_one_wins(launch: Callable[..., Leases]) -> None:
    launches = [launch() for _ in range(8)]
    won = race(launches)
    assert len(won) == 1
    for _ in range(5):  # and again each time it is given back
        won[0].release(KEY)
        won = race(launches)
        assert len(won) == 1


def test_of_many_that_take_over_at_once_one_wins(launch: Callable[..., Leases]) -> None:
    clock = Clock()
    dead = launch()
    assert dead.acquire(KEY)
    observers = [launch(clock) for _ in range(8)]
    assert all(observer.held_elsewhere(KEY) for observer in observers)
    clock.now += EXPIRY_S + 1
    won = race(observers)
    assert len(won) == 1
    assert all(observer.held_elsewhere(KEY) for observer in observers if observer is not won[0])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"owner": null}', b"\xff"])
def test_a_lease_without_a_readable_owner_is_free(
    files: LocalFiles, launch: Callable[..., Leases], content: bytes
) -> None:
    files.write(f"claims/{KEY}/000001.json", content)
    leases = launch()
    assert not leases.held_elsewhere(KEY)
    assert leases.acquire(KEY)


def test_files_that_a_network_drive_adds_are_no_leases(files: LocalFiles, launch: Callable[..., Leases]) -> None:
    files.write(f"claims/{KEY}/.nfs000001", b"")
    files.write(f"claims/{KEY}/notes.json", b"")
    assert launch().acquire(KEY)


def test_the_heart_beats_while_the_launch_lasts(files: LocalFiles) -> None:
    with Leases(files, heartbeat_s=0.01) as leases:
        path = f"claims/owners/{leases.owner}.json"
        first = files.read(path)
        deadline = time.monotonic() + 10
        while files.read(path) == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert files.read(path) != first


def test_a_heartbeat_outlives_storage_that_was_away(files: LocalFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    write, failed = files.write, threading.Event()

    def away(path: str, content: bytes) -> None:
        failed.set()
        raise StorageError("away")

    with Leases(files, heartbeat_s=0.01) as leases:
        monkeypatch.setattr(files, "write", away)
        assert failed.wait(10)
        monkeypatch.setattr(files, "write", write)
        before = files.read(f"claims/owners/{leases.owner}.json")
        deadline = time.monotonic() + 10
        while files.read(f"claims/owners/{leases.owner}.json") == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert files.read(f"claims/owners/{leases.owner}.json") != before


def test_who_waits_for_one_that_died_elsewhere_follows_it_and_for_a_living_one_gives_up(files: LocalFiles) -> None:
    said: list[str] = []

    def ask(leases: Leases) -> bool:
        return leases.acquire_or_tell(KEY, lambda: said.append("waiting"))

    def quick() -> Leases:
        return Leases(files, heartbeat_s=0.02, expiry_s=0.2)

    dead = quick()
    elsewhere = {"count": 1, "process": ["another boot", "", 1, 1]}  # nobody can look its process up
    files.write(f"claims/owners/{dead.owner}.json", json.dumps(elsewhere).encode())
    assert dead.acquire(KEY)
    with quick() as follower:
        assert ask(follower) and said == ["waiting"]
        assert not ask(quick())  # its counter moves
        assert ask(follower)
    assert said == ["waiting"] * 2
    assert ask(quick()) and said == ["waiting"] * 2  # free: nobody waits
