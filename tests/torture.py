"""make torture: real launches on real Ray nodes, and faults at random moments until the asked number is reached.

    python -m tests.torture --workers 20 --drivers 10 --nodes 5

Each round launches a small space into fresh storage and kills whatever comes up until it is done; then every number is
compared with those of an uninterrupted run. For each fault: how long until the lost training was begun again (found and
placed), and how long until storage held something new of it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.helpers import numbers, run_launch, write_space
from tests.support.ray_cluster import Launch, RayCluster, started

KINDS = ("worker", "driver", "node")
EPOCHS = 16
SEEDS = "0,1,2"
PATIENCE_S = 180.0


@dataclass
class Times:
    """What was measured of the faults of one kind, in seconds."""

    count: int = 0
    begun: list[float] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)

    def line(self, kind: str) -> str:
        def of(values: list[float]) -> str:
            return f"{statistics.median(values):6.1f} {max(values):6.1f}" if values else "     -      -"

        return f"{kind + 's':<10} {self.count:>5}   {of(self.begun)}   {of(self.progress)}"


class Round:
    """One launch, or as many as its driver is killed, into one storage."""

    def __init__(self, folder: Path, cluster: RayCluster, dice: random.Random, times: dict[str, Times]) -> None:
        self.folder, self.cluster, self.dice, self.times = folder, cluster, dice, times
        self.storage = folder / "storage"
        self.folders: list[Path] = []
        self.launch = self.start()

    def start(self) -> Launch:
        """The same command, each time in another folder."""
        folder = self.folder / f"launch-{len(self.folders)}"
        folder.mkdir()
        self.folders.append(folder)
        space = str(write_space(folder, epochs=EPOCHS))
        return Launch(
            folder, "--space", space, "--seeds", SEEDS, "--storage", str(self.storage), "--no-tracking",
            "--max-failures", "100",
        )  # fmt: skip

    def run(self, left: dict[str, int]) -> None:
        """Kill until nothing is left to kill, or the launch is done."""
        while self.launch.process.poll() is None:
            time.sleep(self.dice.uniform(0.5, 4.0))
            kinds = [kind for kind in KINDS for _ in range(left[kind])]
            if not kinds:
                self.launch.process.wait(600)
                break
            kind = self.dice.choice(kinds)
            if getattr(self, f"kill_{kind}")():
                left[kind] -= 1
        code = self.launch.process.poll()
        if code != 0:
            raise SystemExit(f"the launch ended with {code}:\n{self.launch.text()}")

    def kill_worker(self) -> bool:
        """SIGKILL a process that trains or measures."""
        workers = self.workers()
        if not workers:
            return False
        process, key = self.dice.choice(sorted(workers.items()))
        return self.fault("worker", [key], lambda: os.kill(process, signal.SIGKILL))

    def kill_driver(self) -> bool:
        """SIGKILL the launch with its children, and launch again from another folder."""
        keys = sorted(self.workers().values())
        if not keys or self.launch.process.poll() is not None:
            return False

        def kill() -> None:
            self.launch.process.kill_group()
            self.launch = self.start()

        return self.fault("driver", keys, kill)

    def kill_node(self) -> bool:
        """SIGKILL all of a node that trains, with another one beside it."""
        parents = {process: _parent(process) for process in self.workers()}
        busy = [node for node in self.cluster.nodes if self.cluster.raylet_of(node) in parents.values()]
        if not busy:
            return False
        node = self.dice.choice(busy)
        if len(self.cluster.nodes) < 2:
            self.cluster.add_node()
        raylet = self.cluster.raylet_of(node)
        keys = [key for process, key in self.workers().items() if _parent(process) == raylet]
        return bool(keys) and self.fault("node", keys, lambda: self.cluster.lose_node(node))

    def fault(self, kind: str, keys: list[str], strike: Any) -> bool:
        """Strike, and time how the trainings that were hit come back."""
        begun, held = self.begun(), self.held(keys)
        struck = time.monotonic()
        strike()
        times = self.times[kind]
        times.count += 1
        again = self.first(lambda: any(key in keys for _, key, _ in self.begun() - begun))
        if again is not None:
            times.begun.append(again - struck)
            progress = self.first(lambda: self.held(keys) - held)
            if progress is not None:
                times.progress.append(progress - struck)
        done = sum(each.count for each in self.times.values())
        print(
            f"{done:>3}. {kind:<6} hit {len(keys)} training(s); begun again after {_seconds(again, struck)}", flush=True
        )
        return True

    def first(self, condition: Any) -> float | None:
        """When something came; None when the launch ended without it: what was hit had just finished."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if condition():
                return time.monotonic()
            if self.launch.process.poll() is not None:
                return None
            time.sleep(0.02)
        raise SystemExit(f"nothing came back within {PATIENCE_S:g} s:\n{self.launch.text()}")

    def begun(self) -> set[tuple[int, str, int]]:
        """(time, key, process) of every training that was begun; see tests/support/faults.py."""
        found = set()
        for folder in self.folders:
            for path in folder.glob("begun-*"):
                _, key, process, at = path.name.split("-")
                found.add((int(at), key, int(process)))
        return found

    def workers(self) -> dict[int, str]:
        """Living processes of this launch -> the training each began last and has not finished."""
        latest: dict[int, str] = {}
        for _, key, process in sorted(self.begun()):
            latest[process] = key
        return {process: key for process, key in latest.items() if _alive(process) and not self.whole(key)}

    def whole(self, key: str) -> bool:
        """Whether a training has all its records."""
        return any(b"finished\n" in path.read_bytes()[-20:] for path in self.storage.glob(f"{key}/attempts/*/log.txt"))

    def held(self, keys: list[str]) -> set[Path]:
        """The manifests of some trainings: each new one names something new."""
        return {path for key in keys for path in self.storage.glob(f"{key}/attempts/*/manifest-*.json")}


def _alive(process: int) -> bool:
    try:
        return b"ray::" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def _parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _seconds(then: float | None, since: float) -> str:
    return "- (it had just finished)" if then is None else f"{then - since:.1f} s"


def main() -> int:
    """Run it.

    Returns:
        0 when no result was lost.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, count in zip(KINDS, (20, 10, 5), strict=True):
        parser.add_argument(f"--{kind}s", type=int, default=count, help=f"{kind}s to kill (default {count})")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    asked = parser.parse_args()
    left = {kind: int(getattr(asked, f"{kind}s")) for kind in KINDS}
    dice, times = random.Random(asked.seed), {kind: Times() for kind in KINDS}
    start = time.monotonic()
    lost = compared = rounds = 0
    top = Path(tempfile.mkdtemp(prefix="ablate-torture-"))
    try:
        space = str(write_space(top, epochs=EPOCHS))
        run_launch(top, "--space", space, "--seeds", SEEDS, "--no-tracking", "--local", "--cpus-per-trial", "1")
        whole = numbers(top / "storage")
        with started(top / "token") as cluster:
            os.environ["RAY_ADDRESS"] = cluster.address
            while any(left.values()):
                rounds += 1
                folder = top / f"round-{rounds}"
                folder.mkdir()
                Round(folder, cluster, dice, times).run(left)
                found = numbers(folder / "storage")
                compared += len(whole)
                lost += sum(found.get(name) != value for name, value in whole.items())
                print(f"round {rounds} is whole: {len(found)} results compared, {lost} lost so far", flush=True)
            del os.environ["RAY_ADDRESS"]
    finally:
        shutil.rmtree(top, ignore_errors=True)
    faults = sum(each.count for each in times.values())
    print(f"\n{faults} faults in {rounds} rounds, {(time.monotonic() - start) / 60:.1f} min (seed {asked.seed})")
    print("                     begun again, s    progress again, s")
    print("killed     count   median    max     median    max")
    for kind in KINDS:
        print(times[kind].line(kind))
    print(f"results lost: {lost} of {compared}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
