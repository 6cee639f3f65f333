"""The plans of the storage that is served, and who follows which: a plan that nobody watches is not looked at."""

from __future__ import annotations

import threading
import time
from typing import Any

from ablate.core.errors import StorageError, UserError
from ablate.core.redaction import redact
from ablate.core.text import printable
from ablate.serve import views
from ablate.serve.board import Board
from ablate.serve.follower import LOOK_S, Follower
from ablate.storage import plans
from ablate.storage.plans import PlanFile
from ablate.storage.storage import Storage

UNWATCHED_S = 60.0
"""A plan is followed so long after its last viewer left."""

SIZES_S = 30.0
"""So often it is seen whether a plan's file is another: one that was launched again, or a search that has grown."""


class Shelf:
    """The plans of a storage.

    Args:
        storage: Which is served.
        look_s: Between two looks at it.
        figures: Whether the report's figures are drawn.
    """

    NONE = "none"
    """What stands for the plan of a storage without any."""

    def __init__(self, storage: Storage, look_s: float = LOOK_S, *, figures: bool = True) -> None:
        self._storage = storage
        self._look_s = look_s
        self._figures = figures
        self._lock = threading.RLock()
        self._known: dict[str, PlanFile] = {}
        self._sizes: dict[str, int | None] = {}
        self._unreadable: dict[str, str] = {}
        self._looked = self._sized = float("-inf")
        self._away = ""
        self._followers: dict[str, tuple[Follower, float]] = {}
        self._empty = Board()
        self.where = redact(storage.location)

    def close(self) -> None:
        """Follow nothing any more."""
        with self._lock:
            for follower, _ in self._followers.values():
                follower.stop()
            self._followers.clear()

    def newest(self) -> str | None:
        """Id of the plan that was launched last; None without any."""
        with self._lock:
            self._look()
            found = self._in_order()
            return found[0].id if found else None

    def has(self, plan: str) -> bool:
        """Whether there is, or was, a plan of this id."""
        with self._lock:
            self._look()
            return plan in self._known

    def title(self, plan: str | None) -> tuple[str, bool]:
        """What a plan's page is called, and whether the plan has several spaces."""
        with self._lock:
            if plan is None:
                return f"Nothing launched yet into {self.where}", False
            spaces = self._known[plan].spaces
            return ", ".join(space.title for space in spaces), len(spaces) > 1

    def board(self, plan: str) -> Board | None:
        """The board of a plan, which is followed from now on; None for what is no plan's id."""
        with self._lock:
            self._look()
            if plan == self.NONE:
                self._tell(plan, self._empty)
                return self._empty
            if plan not in self._known:
                return None
            if plan not in self._followers:
                follower = Follower(self._storage.location, self._known[plan], self._look_s, figures=self._figures)
                self._followers[plan] = (follower.start(), time.monotonic())
                self._tell(plan, follower.board)
            return self._followers[plan][0].board

    def touch(self, plan: str, board: Board) -> bool:
        """A viewer of a board is there.

        Returns:
            False where the page is to be loaded anew: it showed that there is no plan, and now there is one.
        """
        with self._lock:
            self._look()
            if plan == self.NONE:
                return not self._known
            follower, _ = self._followers.get(plan, (None, 0.0))
            if follower is None or follower.board is not board:
                return False
            self._followers[plan] = (follower, time.monotonic())
            return True

    def picture(self, name: str) -> bytes | None:
        """A figure's file; None where no plan that is followed has it."""
        with self._lock:
            found = (follower.picture(name) for follower, _ in self._followers.values())
            return next((content for content in found if content is not None), None)

    def _look(self) -> None:
        """See which plans there are, and let go of those that nobody watches."""
        now = time.monotonic()
        if now - self._looked < self._look_s:
            return
        sizes = now - self._sized > SIZES_S
        self._looked, self._sized = now, now if sizes else self._sized
        for plan, (follower, touched) in list(self._followers.items()):
            if now - touched > UNWATCHED_S:
                follower.stop()
                del self._followers[plan]
        try:
            changed = [self._see(plan) for plan in plans.plan_ids(self._storage) if sizes or plan not in self._known]
            away = ""
        except UserError as error:
            changed, away = [], redact(str(error))
        if any(changed) or away != self._away:
            self._away = away
            for plan, (follower, _) in self._followers.items():
                self._tell(plan, follower.board)
            self._tell(self.NONE, self._empty)

    def _see(self, plan: str) -> bool:
        """Whether a plan's file is another than it was; it is then read."""
        size = self._storage.files.size(f"plans/{plan}.json")
        if plan in self._sizes and self._sizes[plan] == size:
            return False
        self._sizes[plan] = size
        try:
            self._known[plan] = plans.load(self._storage, plan)
            self._unreadable.pop(plan, None)
        except StorageError as error:  # half a file system, a newer version: the others are shown
            self._unreadable[plan] = redact(str(error))
        return True

    def _in_order(self) -> list[PlanFile]:
        return sorted(self._known.values(), key=lambda plan: plan.launched_ms, reverse=True)

    def _tell(self, shown: str, board: Board) -> None:
        board.put(views.plans_piece([_item(plan) for plan in self._in_order()], shown, list(self._unreadable.values())))
        if shown == self.NONE:
            nothing = "The first launch is shown by itself; python -m ablate.launch begins one."
            board.put(views.notice_piece(self._away or nothing))


def _item(plan: PlanFile) -> dict[str, Any]:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(plan.launched_ms / 1000))
    changed = f" · {' '.join(plan.overrides)}" if plan.overrides else ""
    spaces = ", ".join(space.name for space in plan.spaces)
    return {"id": plan.id, "words": printable(f"{when} · {spaces} · {plan.preset}{changed}")}
