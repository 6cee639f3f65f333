"""A plan followed: its page says what storage says, as it changes; nothing is written, nothing unchanged is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ablate.core.errors import StorageError
from ablate.report.figures import overview
from ablate.serve.cache import CachedStorage
from ablate.serve.curves import name_of
from ablate.serve.follower import Follower
from ablate.serve.server import LiveServer
from ablate.serve.shelf import Shelf
from ablate.storage import plans
from ablate.storage.files import LocalFiles
from ablate.storage.leases import Leases
from ablate.storage.plans import PlanFile
from ablate.storage.storage import Storage
from tests.support.asgi import ask
from tests.support.helpers import until
from tests.support.stored import content
from tests.support.tracking_world import EPOCHS, T0, finish, history_of, measure, plan_of, train

PLAN = plan_of(("512", "256", "64"), (0,), plan_id="aaaaaaaaaa")


class Page:
    """What a viewer sees: the pieces by id, each as it was sent last."""

    def __init__(self, follower: Follower) -> None:
        self._board, self._version = follower.board, 0
        self.shown: dict[str, dict[str, Any]] = {}

    def catch_up(self) -> set[str]:
        """The ids of what was sent since the last time."""
        self._version, told = self._board.since(self._version)
        for piece in told:
            if piece.get("gone"):
                self.shown.pop(piece["id"], None)
            else:
                self.shown[piece["id"]] = {**self.shown.get(piece["id"], {}), **piece}
        return {piece["id"] for piece in told}

    def state_of(self, plan: PlanFile, row: str) -> str:
        training = next(trial.training for trial in plan.trials if trial.row == row)
        [found] = [
            piece["parent"]
            for name, piece in self.shown.items()
            if name.startswith("trial-") and f'data-training="{training}"' in piece["html"]
        ]
        return str(found).removeprefix("in-")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path / "storage"))
    plans.save(PLAN, storage)
    return storage


@pytest.fixture
def follower(storage: Storage) -> Iterator[Follower]:
    """Looks when the test says so."""
    follower = Follower(storage.location, PLAN, figures=False)
    yield follower
    follower.stop()


def key(row: str) -> str:
    return next(trial.training for trial in PLAN.trials if trial.row == row)


def test_a_training_goes_through_its_states_and_only_what_changed_is_sent(storage: Storage, follower: Follower) -> None:
    page = Page(follower)
    follower.look()
    page.catch_up()
    assert [page.state_of(PLAN, row) for row in ("512", "256", "64")] == ["waiting"] * 3
    with Leases(storage.files) as launch:
        assert launch.acquire(key("512"))
        follower.look()
        sent = page.catch_up()
        assert page.state_of(PLAN, "512") == "training"
        assert not any(key("256") in page.shown[each]["html"] for each in sent)
        attempt = train(storage, key("512"), 1)
        follower.look()
        page.catch_up()
        line = page.shown[f"line-train-loss-{key('512')}"]["html"]
        assert "1 of 9 epochs" in page.shown["summary"]["html"] and "1 training" in page.shown["summary"]["html"]
        train(storage, key("512"), EPOCHS, attempt)
        follower.look()
        sent = page.catch_up()
        assert page.shown[f"line-train-loss-{key('512')}"]["html"] != line  # it grew
        assert not any(key("256") in json.dumps(page.shown[each]) for each in sent)
        measure(attempt, PLAN.trials[0])
    train(storage, key("256"), 1).save_failure("ValueError: boom (/home/me/my_net.py:17)", "Traceback", T0)
    train(storage, key("64"), 1)
    follower.look()
    page.catch_up()
    assert [page.state_of(PLAN, row) for row in ("512", "256", "64")] == ["finished", "failed", "interrupted"]
    failure = next(piece["html"] for piece in page.shown.values() if piece.get("parent") == "in-failed")
    assert "my_net.py:17" in failure and "log.txt" in failure and "Traceback" in failure
    follower.look()
    assert page.catch_up() <= {"section-batch_size"}  # which is made beside the looks


def test_tables_and_verdicts_come_with_what_ends(storage: Storage, follower: Follower) -> None:
    page = Page(follower)
    follower.look()
    until(lambda: "section-batch_size" in page.catch_up())
    assert "missing" in page.shown["section-batch_size"]["html"]
    finish(storage, PLAN, [key("512")])
    follower.look()
    until(lambda: "section-batch_size" in page.catch_up())
    assert "n\xa0=\xa01" in page.shown["section-batch_size"]["html"]


def test_tables_that_could_not_be_made_are_tried_again(
    storage: Storage, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(follower)
    finish(storage, PLAN, [key("512")])
    with monkeypatch.context() as broken:
        broken.setattr(CachedStorage, "record", lambda *_: 1 / 0)
        follower.look()
        until(lambda: "section-" in page.catch_up())
        assert "ZeroDivisionError" in page.shown["section-"]["html"]
    follower.look()
    until(lambda: page.catch_up() and "section-" not in page.shown)
    assert "n\xa0=\xa01" in page.shown["section-batch_size"]["html"]


@pytest.mark.slow
def test_figures_follow_the_tables(storage: Storage) -> None:
    finish(storage, PLAN, [key("512")])
    follower = Follower(storage.location, PLAN)
    page = Page(follower)
    follower.look()
    until(lambda: "figures-batch_size" in page.catch_up())
    source = page.shown["figures-batch_size"]["html"].partition('<img src="/figures/')[2].partition('"')[0]
    assert (follower.picture(source) or b"").startswith(b"\x89PNG") and follower.picture("../" + source) is None
    follower.stop()


def test_nothing_is_written_and_nothing_unchanged_is_read(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(storage, PLAN, [key("512")])
    train(storage, key("256"), 1)
    before = content(storage)
    read: list[str] = []
    plain = LocalFiles.read
    monkeypatch.setattr(LocalFiles, "read", lambda files, path: (read.append(path), plain(files, path))[1])
    seen = CachedStorage(storage.location)
    keys = list(PLAN.trainings())
    assert seen.look(keys) == {key("512"), key("256")}
    for each in keys:
        view = seen.view(each)
        assert (view, seen.history(each)) == (storage.view(each), storage.history(each))
        assert all(seen.record(view, name) is not None for name in view.records)
    read.clear()
    assert seen.look(keys) == set()
    for each in keys:
        assert all(seen.record(seen.view(each), name) is not None for name in seen.view(each).records)
        assert seen.history(each) is not None
    assert read == [] and content(storage) == before
    with pytest.raises(StorageError, match="expected"):
        seen.files.write("anything", b"")
    monkeypatch.undo()
    measure(train(storage, key("256"), EPOCHS), PLAN.trials[1])
    assert seen.view(key("256")).epoch == 1  # as of the last look
    assert seen.look(keys) == {key("256")} and seen.view(key("256")) == storage.view(key("256"))


@pytest.mark.parametrize("goes", ["whole", "plan"])
def test_a_storage_that_vanishes_is_told_and_the_page_goes_on_when_it_is_back(
    storage: Storage, follower: Follower, goes: str
) -> None:
    page = Page(follower)
    finish(storage, PLAN, [key("512")])
    follower.look()
    page.catch_up()
    there = Path(storage.location) if goes == "whole" else Path(storage.location) / "plans"
    shutil.move(there, there.with_name("away"))
    follower.look()
    follower.look()
    assert page.catch_up() - {"section-batch_size"} == {"notice"}  # told once, and all else stays
    assert "expected plan aaaaaaaaaa to be there, got nothing" in page.shown["notice"]["html"]
    assert page.state_of(PLAN, "512") == "finished"
    shutil.move(there.with_name("away"), there)
    finish(storage, PLAN, [key("64")])
    follower.look()
    page.catch_up()
    assert "hidden" in page.shown["notice"]["html"]
    assert [page.state_of(PLAN, row) for row in ("512", "64")] == ["finished", "finished"]


@pytest.mark.parametrize("kind", [StorageError, OSError])
def test_a_page_tells_no_login_of_its_storage(
    storage: Storage, follower: Follower, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(seen: CachedStorage, keys: object) -> set[str]:
        raise kind("s3://me:s3cret@bucket/results does not answer")

    monkeypatch.setattr(CachedStorage, "look", look)
    page = Page(follower)
    follower.look()
    page.catch_up()
    assert "does not answer" in page.shown["notice"]["html"] and "s3cret" not in str(page.shown)


def test_a_search_that_goes_on_brings_new_rows(storage: Storage, follower: Follower) -> None:
    page = Page(follower)
    follower.look()
    grown = plan_of(("512", "256", "64", "32"), (0,), plan_id=PLAN.id)
    plans.save(grown, storage)
    follower.look()
    page.catch_up()
    assert page.state_of(grown, "32") == "waiting" and "of 4 trials" in page.shown["summary"]["html"]


def test_a_page_without_a_plan_becomes_that_of_the_first_launch(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "storage"))
    server = LiveServer(storage, "127.0.0.1", None, look_s=0.01, figures=False)
    assert "Nothing launched yet" in ask(server.app, "/").text
    assert "first launch" in ask(server.app, "/events/none", until=b"first launch").text
    assert not (tmp_path / "storage").exists()
    plans.save(PLAN, storage)
    assert "event: reload" in ask(server.app, "/events/none").text
    later = plan_of(("8",), (0,), plan_id="bbbbbbbbbb", launched_ms=T0 + 1)
    plans.save(later, storage)
    until(lambda: "bbbbbbbbbb" in ask(server.app, "/").text)
    told = ask(server.app, "/events/aaaaaaaaaa", until=b"plans-list").text
    assert "/plan/bbbbbbbbbb" in told
    server.shelf.close()


def test_a_viewer_of_an_earlier_server_loads_the_page_again_and_one_of_this_gets_the_rest(storage: Storage) -> None:
    server = LiveServer(storage, "127.0.0.1", None, look_s=0.01, figures=False)
    assert "event: reload" in ask(server.app, "/events/aaaaaaaaaa", headers={"last-event-id": "0badcafe-7"}).text
    first = ask(server.app, "/events/aaaaaaaaaa", until=b"summary").text
    seen = first.rpartition("id: ")[2].partition("\n")[0]
    train(storage, key("64"), 1)
    rest = ask(server.app, "/events/aaaaaaaaaa", headers={"last-event-id": seen}, until=key("64").encode()).text
    assert "panel-train-loss" in first and "panel-train-loss" not in rest
    server.shelf.close()


def test_plans_that_cannot_be_read_are_named_and_hide_no_other(storage: Storage) -> None:
    storage.files.write("plans/cccccccccc.json", b"{")
    shelf = Shelf(storage, 0.01, figures=False)
    board = shelf.board(PLAN.id)
    assert board is not None and shelf.board("cccccccccc") is None
    [told] = [piece["html"] for piece in board.since(0)[1] if piece["id"] == "plans"]
    assert "cccccccccc.json: expected a plan" in told
    shelf.close()


def test_curves_pass_over_what_is_no_number(storage: Storage, follower: Follower) -> None:
    entries = history_of(key("512"), 2)
    entries[0]["metrics"]["train/loss"] = float("nan")
    storage.attempt(key("512")).save_checkpoint(2, b"x", entries)
    page = Page(follower)
    follower.look()
    page.catch_up()
    line = page.shown[f"line-train-loss-{key('512')}"]["html"]
    assert "nan" not in line and len(line.partition('points="')[2].partition('"')[0].split()) == 2
    assert all("nan" not in str(piece) for name, piece in page.shown.items() if name.startswith(("lines-", "ticks-")))


def test_every_curve_of_the_figure_that_is_not_drawn_has_its_line(storage: Storage, follower: Follower) -> None:
    entries = history_of(key("512"), 2)
    for entry in entries:
        entry["metrics"] |= dict.fromkeys(overview.PANELS, 50.0)
    storage.attempt(key("512")).save_checkpoint(2, b"x", entries)
    page = Page(follower)
    follower.look()
    page.catch_up()
    lines = {name for name in page.shown if name.startswith("line-") and name.endswith(key("512"))}
    assert lines == {f"line-{name_of(metric)}-{key('512')}" for metric in overview.PANELS}
