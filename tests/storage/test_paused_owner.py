"""A launch that was paused until another one took over stops, trains nothing twice, and writes nothing over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablate.core.errors import UserError
from ablate.execution import base, worker
from ablate.learning import data
from ablate.storage import checkpoints, leases
from ablate.storage.files import LocalFiles
from ablate.storage.leases import Leases
from ablate.storage.storage import Storage
from tests.support.helpers import launch_here, numbers, options_of, write_space
from tests.support.search_helpers import write_search
from tests.support.tasks import planned, task

KEY = "ab" * 10


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def take_over(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Does something as a launch to which every other one looks dead, as a paused one does after a while."""

    def take_over(act: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(leases, "dead_here", lambda heartbeat: True)
            return act()

    return take_over


def test_what_was_taken_over_is_no_longer_held(tmp_path: Path, take_over: Callable[..., Any]) -> None:
    files = LocalFiles(tmp_path)
    paused, other = Leases(files), Leases(files)
    assert not paused.holds(KEY)
    for each in (paused, other):
        each.beat()
    assert paused.acquire(KEY) and paused.holds(KEY)
    first = leases.highest(files, KEY)
    assert leases.in_force(files, KEY, first)
    assert take_over(lambda: other.acquire(KEY))
    assert not leases.in_force(files, KEY, first)
    assert not paused.holds(KEY) and paused.held_elsewhere(KEY) and not paused.acquire(KEY)
    other.release(KEY)
    assert paused.acquire(KEY) and leases.highest(files, KEY) > first


def test_what_was_given_back_is_held_by_nobody(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    claims = Leases(files)
    claims.beat()
    assert claims.acquire(KEY)
    number = leases.highest(files, KEY)
    claims.release(KEY)
    assert number and not leases.in_force(files, KEY, number)  # a worker that outlived its launch stops


@pytest.mark.parametrize("after", [("started", 0, ""), ("epoch", 0, ""), ("epoch", 2, ""), ("measured", 2, "natural")])
def test_a_worker_that_lost_its_lease_writes_nothing_more(
    tmp_path: Path, take_over: Callable[..., Any], after: tuple[str, int, str]
) -> None:
    from ablate.spaces.specs import DataSpec

    plan, storage = planned(tmp_path, "training.epochs=2"), Storage(str(tmp_path / "storage"))
    doing = task(plan, storage)
    owner, other = Leases(storage.files), Leases(storage.files)
    for each in (owner, other):
        each.beat()
    doing = base.Task(**{**vars(doing), "lease": base.Lease(owner.owner)})
    then: dict[str, bytes] = {}
    later: list[str] = []

    def listen(event: Any) -> None:
        if then:
            later.append(event.kind)
        elif (event.kind, event.done, event.text) == after:
            assert take_over(lambda: other.acquire(doing.key))
            then.update(files_of(tmp_path / "storage"))

    digits = data.load(DataSpec(name="digits", image_size=8), Path())
    outcome = worker.run(doing, digits, listen)
    assert then and outcome.state == "not_mine"
    assert not later  # nothing more was trained, and nothing measured
    assert files_of(tmp_path / "storage") == then
    assert worker.run(doing, digits, listen).state == "not_mine"  # before training
    assert files_of(tmp_path / "storage") == then


@pytest.mark.slow
def test_a_paused_launch_waits_for_the_results_of_the_one_that_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, take_over: Callable[..., Any]
) -> None:
    write_space(tmp_path, attacks="natural, gn, fgsm")
    save_state = checkpoints.save_state
    there: dict[str, bytes] = {}
    whole: dict[str, Any] = {}

    def paused(state: Any) -> bytes:
        if state.epoch == 1 and not there:
            there["..."] = b""  # once
            code, text = take_over(lambda: launch_here(options_of(tmp_path)))
            assert code == 0, text
            there.update(files_of(tmp_path / "storage"))
            whole.update(numbers(tmp_path / "storage"))
        return save_state(state)

    monkeypatch.setattr(checkpoints, "save_state", paused)
    code, text = launch_here(options_of(tmp_path))
    assert code == 0, text
    assert "another launch trains it; waiting for its result" in text
    assert "2 done · 0 running · 0 to go\n" in text
    assert numbers(tmp_path / "storage") == whole
    # What the pause was in the middle of is one more attempt, never read; the second training was not begun again.
    attempts = [path.parent.parent.name for path in (tmp_path / "storage").glob("*/attempts/*")]
    assert sorted(attempts.count(key) for key in set(attempts)) == [1, 2]
    now = files_of(tmp_path / "storage")
    kept = {path for path in there if "/attempts/" in path}
    assert all(now[path] == there[path] for path in kept if not path.endswith("log.txt") and path in now)


@pytest.mark.slow
def test_a_paused_search_leaves_its_records_to_the_one_that_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, take_over: Callable[..., Any]
) -> None:
    write_search(tmp_path, samples=2)
    save_state = checkpoints.save_state
    there: dict[str, bytes] = {}

    def paused(state: Any) -> bytes:
        if state.epoch == 1 and not there:
            there["..."] = b""
            code, text = take_over(lambda: launch_here(options_of(tmp_path, "tiny_search")))
            assert code == 0, text
            there.update(files_of(tmp_path / "storage" / "searches"))
        return save_state(state)

    monkeypatch.setattr(checkpoints, "save_state", paused)
    with pytest.raises(UserError, match="another launch has taken over the search"):
        launch_here(options_of(tmp_path, "tiny_search"))
    del there["..."]
    assert there and files_of(tmp_path / "storage" / "searches") == there
