"""Damaged storage: whatever happened to its files, no traceback, no wrong number, nothing silently missing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablate.core.errors import StorageError
from ablate.planning.plan import decide
from ablate.storage import plans
from ablate.storage.checkpoints import load_state
from ablate.storage.leases import Leases
from ablate.storage.plans import PlanFile
from ablate.storage.status import reaches
from ablate.storage.storage import Storage
from ablate.tracking.runs import PlanRuns
from ablate.tracking.sending import send
from ablate.tracking.store import Point, Run
from tests.support.tracking_world import EPOCHS, finish, history_of, plan_of

COPIES = 200
Harm = Callable[[Path, random.Random], None]


class Sent:
    """A tracking store that keeps what it is sent."""

    def __init__(self) -> None:
        self.points: dict[str, set[Point]] = {}
        self.uploads: dict[tuple[str, str], bytes] = {}

    def experiment(self, name: str, create: bool = False) -> str:
        return name

    def create(self, experiment: str, name: str, tags: Mapping[str, str], start_ms: int) -> Run:
        return Run(name, experiment, name, "RUNNING", start_ms, tags=dict(tags))

    def log(
        self, run: Run, points: Sequence[Point] = (), params: object = None, tags: Mapping[str, str] | None = None
    ) -> None:
        self.points.setdefault(run.id, set()).update(points)
        run.tags.update(tags or {})

    def log_data(self, run: Run, inputs: object) -> None:
        pass

    def untag(self, run: Run, name: str) -> None:
        run.tags.pop(name, None)

    def set_status(self, run: Run, status: str, end_ms: int | None = None) -> None:
        run.status = status

    def upload(self, run: Run, path: str, content: bytes) -> None:
        self.uploads[run.id, path] = content


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 8])):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.choice([0, chance.randrange(path.stat().st_size)])])


def zeros(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    begin = chance.choice([0, chance.randrange(len(content))])
    content[begin : begin + 4096] = bytes(len(content[begin : begin + 4096]))
    path.write_bytes(content)


OTHER_JSON = (
    *("{}", "[]", "null", "3", "NaN", '"text"', "[[1, 2]]", '{"layout": 1}', '{"owner": 7}', '{"owner": "../../../x"}'),
    *('{"sha256": 1, "body": "{}"}', '{"sha256": null, "body": null}', '{"body": [], "sha256": []}'),
)


def other_json(path: Path, chance: random.Random) -> None:
    path.write_text(chance.choice(OTHER_JSON))


def deep_json(path: Path, chance: random.Random) -> None:
    begin, end = chance.choice([("[", "]"), ('{"a":', "}")])
    path.write_text(begin * 200_000 + "1" + end * 200_000)


def gone(path: Path, chance: random.Random) -> None:
    path.unlink()


def folder_gone(path: Path, chance: random.Random) -> None:
    shutil.rmtree(path.parent)


def folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("kept")


def link(path: Path, chance: random.Random) -> None:
    path.unlink()
    target = chance.choice([path, path.parent / "nowhere", path.parent, Path("/dev/zero"), Path("/etc/passwd")])
    path.symlink_to(target)


def pipe(path: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def number_edited(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    at = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    if at:
        place = chance.choice(at)
        digit = b"%d" % ((content[place] - 48 + chance.randrange(1, 10)) % 10)
        path.write_bytes(content[:place] + digit + content[place + 1 :])


def another_of_its_kind(path: Path, chance: random.Random) -> None:
    root = next(parent for parent in path.parents if (parent / "plans").is_dir())
    alike = [each for each in sorted(root.rglob(f"*{path.suffix}")) if each.is_file() and each != path]
    if alike:
        path.write_bytes(chance.choice(alike).read_bytes())


HARMS: list[Harm] = [flip, cut, zeros, other_json, deep_json, gone, folder_gone, folder, link, pipe, number_edited,
                     another_of_its_kind]  # fmt: skip


def a_storage(folder: Path) -> tuple[Storage, PlanFile]:
    """Two finished trainings with their plan, logs, identities and claims."""
    storage, plan = Storage(str(folder)), plan_of(analyses=("spectrum",))
    plan = plans.save(plan, storage)
    finish(storage, plan)
    for key in plan.trainings():
        storage.describe(key, {"seed": 0})
        writer = storage.attempt(key)
        writer.save_log("one line\n")
        writer.save_log("one line\nand another\n", last=True)
        claims = Leases(storage.files)
        claims.beat()
        assert claims.acquire(key)
        claims.release(key)
    return storage, plan


@dataclasses.dataclass
class RowData:
    """What a reader got out of a storage, or the line it was told instead."""

    told: list[str]
    whole: bool
    plan: PlanFile | None = None
    points: Mapping[str, set[Point]] = dataclasses.field(default_factory=dict)
    uploads: Mapping[tuple[str, str], bytes] = dataclasses.field(default_factory=dict)


def launched(storage: Storage, plan: PlanFile) -> RowData:
    """The way of a launch that is given again: what is there is reused, the rest is made again."""
    told: list[str] = []
    planned = {
        key: SimpleNamespace(
            measurements={
                name: SimpleNamespace(network="last", made_on=None) for trial in trials for name in trial.measurements
            }
        )
        for key, trials in plan.trainings().items()
    }
    launch: Any = SimpleNamespace(trainings=planned, search=False)
    with Leases(storage.files) as claims:
        for key in planned:
            storage.describe(key, {"seed": 0})
            told += storage.drop_damaged(key, planned[key].measurements)
            told += storage.damage(key)
        saved = plans.save(plan, storage)
        decide(launch, storage, held_elsewhere=claims.held_elsewhere)
        whole = True
        for key, training in planned.items():
            assert training.action != "wait"
            assert claims.acquire(key)
            content, warnings = storage.checkpoint(key)
            told += warnings
            if content is not None:
                state = load_state(content)
                assert state["history"] == history_of(key, state["epoch"])
            there = {name for name in training.measurements if storage.record(training.view, name) is not None}
            assert training.action != "reuse" or there == set(training.measurements)
            whole = whole and training.action == "reuse" and reaches(storage.history(key), EPOCHS)
    assert plans.load(storage, plan.id) == saved
    return RowData(told, whole, saved)


def synced(storage: Storage, plan_id: str) -> RowData:
    """The way of `report --sync`."""
    told: list[str] = []
    plan = plans.load(storage, tell=told.append)
    assert plan.id == plan_id
    store, opened = Sent(), PlanRuns(plan)
    opened.parents = {space.name: Run("plan", space.name, "plan", "RUNNING", 0) for space in plan.spaces}
    done = []
    for key, trials in plan.trainings().items():
        done.append(send(store, opened, storage, key, trials))  # type: ignore[arg-type]
        needed = {name for trial in trials for name in trial.measurements}
        told += [*storage.damage(key), *storage.damaged_records(key, needed)]
    return RowData(told, all(done), plan, store.points, store.uploads)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PlanFile, RowData]:
    """A storage without damage, and what is read from it."""
    place = tmp_path_factory.mktemp("sound") / "storage"
    storage, plan = a_storage(place)
    seen = synced(storage, plan.id)
    assert seen.whole and not seen.told
    assert launched(storage, plan).whole
    return place, plan, seen


def harmed(sound: Path, copy: Path, number: int) -> str:
    """Harm one or two files of a copy; each kind of harm comes to each kind of file."""
    chance = random.Random(number)
    shutil.copytree(sound, copy)
    what = []
    for turn in range(chance.choice([1, 1, 2])):
        files = sorted(
            path for path in copy.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size
        )
        kinds = sorted({path.name.split("-")[0] for path in files})
        kind = chance.choice(kinds)
        path = chance.choice([path for path in files if path.name.split("-")[0] == kind])
        harm = HARMS[(number + turn) % len(HARMS)]
        what.append(f"{harm.__name__} of {path.relative_to(copy)}")
        harm(path, chance)
    return ", ".join(what)


def points_hold(seen: RowData, sound: RowData) -> bool:
    return all(points <= sound.points.get(run, set()) for run, points in seen.points.items())


@pytest.mark.parametrize("block", range(4))
def test_nothing_that_happens_to_files_makes_a_traceback_a_wrong_number_or_a_silent_loss(
    sound: tuple[Path, PlanFile, RowData], tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda stream: None)  # no power cut is tried, and it takes most of the time
    place, plan, expected = sound
    for number in range(block, COPIES, 4):
        copy = tmp_path / f"{number}"
        what = f"copy {number}: {harmed(place, copy, number)}"
        storage = Storage(str(copy))
        try:
            seen = synced(storage, plan.id)
        except StorageError as error:
            assert len(str(error).splitlines()) == 1, what
        else:
            assert seen.plan is not None and seen.plan == expected.plan, what
            assert points_hold(seen, expected), what
            if seen.points != expected.points:
                assert not seen.whole, what
            for (run, path), content in seen.uploads.items():
                assert content == expected.uploads[run, path], what
        try:
            again = launched(storage, plan)
        except StorageError as error:
            assert len(str(error).splitlines()) == 1, what
            continue
        assert again.plan == expected.plan, what
        healed = synced(storage, plan.id)
        assert points_hold(healed, expected), what
        if healed.points != expected.points:
            assert not (again.whole and healed.whole), what
        shutil.rmtree(copy)


def test_a_history_cut_short_is_repaired_from_the_checkpoint_that_carries_it(tmp_path: Path) -> None:
    storage, plan = a_storage(tmp_path / "storage")
    key = next(iter(plan.trainings()))
    [path] = (tmp_path / "storage" / key).rglob("history-*")
    whole = path.read_bytes()
    for harm in (lambda: path.write_bytes(whole[:-30]), path.unlink, lambda: path.write_bytes(b"[]")):
        harm()
        assert storage.history(key) == history_of(key, EPOCHS)
        assert path.read_bytes() == whole
    assert storage.damage(key) == []


def test_a_history_that_no_checkpoint_carries_is_told_and_not_taken_for_whole(tmp_path: Path) -> None:
    storage, plan = a_storage(tmp_path / "storage")
    key = next(iter(plan.trainings()))
    storage.prune(key)
    [path] = (tmp_path / "storage" / key).rglob("history-*")
    path.unlink()
    [message] = storage.damage(key)
    assert f"expected the metrics of all epochs up to {EPOCHS}" in message
    seen = synced(storage, plan.id)
    assert not seen.whole and message in seen.told


def test_a_log_may_grow_but_not_change(tmp_path: Path) -> None:
    storage, plan = a_storage(tmp_path / "storage")
    key = next(iter(plan.trainings()))
    path = sorted((tmp_path / "storage" / key).rglob("log.txt"))[-1]
    whole = path.read_bytes()
    path.write_bytes(whole + b"a line of a process that dies\n")
    assert storage.damage(key) == []
    for content in (whole[:-1], whole.replace(b"another", b"an0ther"), b""):
        path.write_bytes(content)
        assert any("expected the whole log" in message for message in storage.damage(key))


def test_a_published_number_edited_in_a_plan_file_is_not_believed(tmp_path: Path) -> None:
    storage, plan = a_storage(tmp_path / "storage")
    path = tmp_path / "storage" / "plans" / f"{plan.id}.json"
    path.write_text(path.read_text().replace("42.5", "99.0"))
    with pytest.raises(StorageError, match="its checksum does not hold"):
        plans.load(storage)
    plans.save(plan_of(plan_id="bbbbbbbbbb"), storage)
    told: list[str] = []
    assert plans.load(storage, tell=told.append).id == "bbbbbbbbbb"
    assert len(told) == 1 and "checksum" in told[0]
    path.write_bytes((path.parent / "bbbbbbbbbb.json").read_bytes())  # another plan's file, whole
    with pytest.raises(StorageError, match="got a file of plan 'bbbbbbbbbb'"):
        plans.load(storage, plan.id)


def test_storage_of_before_the_checksums_keeps_working(tmp_path: Path) -> None:
    storage, plan = a_storage(tmp_path / "storage")
    path = tmp_path / "storage" / "plans" / f"{plan.id}.json"
    path.write_text(json.dumps(plan.model_dump(), indent=1))
    for key in plan.trainings():
        for found in (tmp_path / "storage" / key).rglob("manifest-*"):
            body = json.loads(json.loads(found.read_bytes())["body"])
            body.pop("log", None)
            text = json.dumps(body)
            found.write_text(json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text}))
    seen = synced(storage, plan.id)
    assert seen.whole and not seen.told and seen.plan == plan


def test_a_folder_where_a_file_belongs_is_set_aside_with_what_is_in_it(tmp_path: Path) -> None:
    storage, plan = a_storage(tmp_path / "storage")
    path = tmp_path / "storage" / "plans" / f"{plan.id}.json"
    path.unlink()
    path.mkdir()
    (path / "mine").write_text("kept")
    assert storage.files.read(f"plans/{plan.id}.json") is None
    plans.save(plan, storage)
    assert plans.load(storage).id == plan.id
    assert [found.read_text() for found in path.parent.glob("aside-*/mine")] == ["kept"]
