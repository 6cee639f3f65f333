"""A plan followed: what storage holds of it, looked at again and again, becomes pieces of its page."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ablate.core.digest import digest
from ablate.core.errors import StorageError, UserError
from ablate.core.redaction import redact
from ablate.core.text import plural, printable
from ablate.report.from_storage import live_state, state_of
from ablate.report.names import failure_words
from ablate.serve import curves, views
from ablate.serve.board import Board
from ablate.serve.cache import CachedStorage
from ablate.serve.publisher import Publisher
from ablate.serve.views import STATES, TrialView
from ablate.storage import plans
from ablate.storage.plans import PlanFile, TrialPart
from ablate.storage.status import TrainingView

LOOK_S = 1.0
"""Between two looks; more where a look itself takes long, as in a bucket."""

MOST_REST_S = 2.5
"""A look that takes long, as in a bucket, is followed by as long a rest, but by no longer one."""

MOST_LINES = 100
"""Of a panel: trainings that went on last."""

_LOG_BYTES, _LOG_LINES = 20_000, 30
_PLAN_S = 30.0  # a plan file of the same size is read again so often
_UNENDED = ("training", "interrupted", "waiting", "failed")


class Follower:
    """Follows one plan in a thread of its own, and keeps its board.

    Args:
        location: Of the storage.
        plan: As storage keeps it.
        look_s: Between two looks; `LOOK_S` by default.
        figures: Whether the report's figures are drawn.
    """

    def __init__(self, location: str, plan: PlanFile, look_s: float = LOOK_S, *, figures: bool = True) -> None:
        self.board = Board()
        self.plan = plan
        self._storage = CachedStorage(location)
        self._look_s = look_s
        self._publisher = Publisher(self._storage, self.board, figures=figures)
        self._trials: dict[str, TrialView] = {}
        self._trainings: dict[str, list[tuple[str, int, TrialPart]]] = {}
        self._ages: dict[str, int] = {}
        self._drawn: set[str] = set()
        self._ends: dict[str, dict[str, tuple[int, float, float]]] = {metric: {} for metric in curves.PANELS}
        self._colours: dict[str, int] = {}
        self._searches = {space.name for space in plan.spaces if space.search is not None}
        self._plan_seen: tuple[int | None, float] = (None, 0.0)
        self._away = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"follow-{plan.id}", daemon=True)
        self.board.put(*curves.panel_pieces(), views.notice_piece(""))
        self._take(plan)

    def start(self) -> Follower:
        """Begin to look."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Look no more; returns at once."""
        self._stop.set()
        self._publisher.stop()

    def picture(self, name: str) -> bytes | None:
        """The file of a figure that the board names; None for any other name."""
        return self._publisher.pictures.get(name)

    def _follow(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.look()
            self._stop.wait(max(self._look_s, min(MOST_REST_S, time.monotonic() - began)))

    def look(self) -> None:
        """Look once; what is wrong with storage is told on the board, and the next look tries again."""
        try:
            self._look()
        except UserError as error:
            self._show_problem(str(error))
        except Exception as error:  # a page that ends would tell nothing at all
            self._show_problem(f"{type(error).__name__}: {error}")

    def _look(self) -> None:
        path = f"plans/{self.plan.id}.json"
        self._read_plan(path)
        live = {f"plan-{self.plan.id}"}
        ended = {key for key in self._trainings if not self._may_change(key)}
        changed = self._storage.look([*(self._trainings.keys() - ended), *live])
        if self._storage.files.size(path) is None:  # it went while it was read
            raise self._gone()
        fresh = changed | {key for key in self._trainings if key not in self._ages}
        moved = [self._show(key) for key in self._trainings if key in fresh]
        self._away = False
        self.board.put(views.notice_piece(""))
        if fresh:
            self._draw(fresh)
        self._summarize()
        if any(moved) or self._publisher.lacking:
            self._publisher.publish(self.plan)

    def _gone(self) -> StorageError:
        where = redact(self._storage.location)
        return StorageError(f"--storage {where}: expected plan {self.plan.id} to be there, got nothing")

    def _show_problem(self, told: str) -> None:
        if not self._away:
            self._away = True
            self._storage.forget()
            self._ages.clear()
            when = time.strftime("%H:%M:%S")
            more = f"What is shown is as of {when}; the page goes on by itself as soon as storage answers."
            self.board.put(views.notice_piece(f"{printable(redact(told))}. {more}"))

    def _read_plan(self, path: str) -> None:
        size, (before, since) = self._storage.files.size(path), self._plan_seen
        if size is None:
            raise self._gone()
        if size != before or time.monotonic() - since > _PLAN_S or self._away:
            self._take(plans.load(self._storage, self.plan.id))
            self._plan_seen = (size, time.monotonic())

    def _take(self, plan: PlanFile) -> None:
        """Take in a plan, which may have grown."""
        self.plan = plan
        trainings: dict[str, list[tuple[str, int, TrialPart]]] = {}
        for order, part in enumerate(plan.trials):
            name = f"trial-{digest([part.space, part.row, part.seed])[:16]}"
            trainings.setdefault(part.training, []).append((name, order, part))
            self._colours.setdefault(f"{part.space}/{part.row}", len(self._colours))
        for key in self._trainings.keys() | trainings.keys():
            if self._trainings.get(key) != trainings.get(key):
                self._ages.pop(key, None)
                gone = {each[0] for each in self._trainings.get(key, [])} - {each[0] for each in trainings.get(key, [])}
                self.board.drop(*gone)
                for name in gone:
                    self._trials.pop(name, None)
        self._trainings = trainings

    def _may_change(self, key: str) -> bool:
        """Whether a training is to be looked at: what is finished stays so."""
        shown = [self._trials.get(name) for name, _, _ in self._trainings[key]]
        return key not in self._ages or any(each is None or each.state in _UNENDED for each in shown)

    def _show(self, key: str) -> bool:
        """Put a training's trials on the board, as the last look found it.

        Returns:
            Whether tables may be others: a state or a number of measurements is, not an epoch alone.
        """
        moved = False
        view, held = self._storage.view(key), self._storage.held(key)
        history = self._storage.history(key)
        last = history[-1] if history else {}
        for name, order, part in self._trainings[key]:
            state, reason = state_of(part, view, of_search=part.space in self._searches)
            state_now = live_state(state, held)
            trial = TrialView(
                name,
                order,
                part.space if len(self.plan.spaces) > 1 else "",
                part.row,
                part.seed,
                key,
                state_now,
                view.epoch,
                part.epochs,
                len(part.measurements & view.records.keys()),
                len(part.measurements),
                last.get("metrics", {}),
                last.get("timestamp_ms"),
                self._colours[f"{part.space}/{part.row}"],
                **self._failure(part, view, reason) if state_now == "failed" else {},
            )
            before = self._trials.get(name)
            moved = moved or before is None or _standing(before) != _standing(trial)
            self._trials[name] = trial
            self.board.put(views.trial_piece(trial))
        self._ages[key] = int(last.get("timestamp_ms", 0))
        return moved

    def _failure(self, part: TrialPart, view: TrainingView, reason: str | None) -> dict[str, Any]:
        place, text = self._storage.log(part.training)
        lacking = part.lacking(view)
        reason = failure_words(lacking, reason) if lacking else reason or "unknown"
        lines = text[-_LOG_BYTES:].splitlines()[-_LOG_LINES:]
        details = str((view.failure or {}).get("details", ""))
        return {
            "reason": redact(reason), "details": redact(details), "log": redact(place),
            "log_end": redact("\n".join(lines)),
        }  # fmt: skip

    def _draw(self, fresh: set[str]) -> None:
        """Lines of what changed, of the trainings that went on last, and axes that hold them."""
        begun = sorted((key for key, at in self._ages.items() if at), key=self._ages.__getitem__, reverse=True)
        shown = set(begun[:MOST_LINES])
        for metric in curves.PANELS:
            name = curves.name_of(metric)
            self.board.drop(*(f"line-{name}-{key}" for key in self._drawn - shown))
            for key in shown:
                if key in fresh or key not in self._drawn:
                    self._draw_line(metric, key)
            known = self._ends[metric]
            ends = [known[key] for key in shown if key in known]
            if ends:
                epochs = max(
                    [each[0] for each in ends] + [self._trainings[key][0][2].epochs for key in shown]
                )  # what is to come has its place from the start
                self.board.put(*curves.axes_pieces(metric, epochs, min(e[1] for e in ends), max(e[2] for e in ends)))
        self._drawn = shown
        rows = {}
        for part in (part for key in self._trainings if key in shown for _, _, part in self._trainings[key][:1]):
            name = f"{part.space}/{part.row}"
            rows[name if len(self.plan.spaces) > 1 else part.row] = self._colours[name]
        self.board.put(views.curves_words_piece(len(shown), len(begun), rows))

    def _draw_line(self, metric: str, key: str) -> None:
        points = _points(self._storage, key, metric)
        if not points:
            return
        self._ends[metric][key] = (max(points), min(points.values()), max(points.values()))
        trials = self._trainings[key]
        part = trials[0][2]
        words = f"{', '.join(dict.fromkeys(each.row for _, _, each in trials))}, seed {part.seed}"
        colour = self._colours[f"{part.space}/{part.row}"]
        self.board.put(curves.line_piece(metric, key, words, colour, points, trials[0][1]))

    def _summarize(self) -> None:
        states = Counter(trial.state for trial in self._trials.values())
        self.board.put(*views.count_pieces(states))
        done = epochs = running = 0
        left = 0.0
        seconds: list[float] = []
        for trials in self._trainings.values():
            trial = self._trials[trials[0][0]]
            ended = trial.state in ("finished", "stopped")
            reached = max(0, min(trial.epoch, trial.epochs))
            epochs += reached if trial.state == "stopped" else trial.epochs
            done += reached
            running += trial.state == "training"
            if "seconds" in trial.last:
                seconds.append(trial.last["seconds"])
            if not ended and trial.state != "failed":
                left += trial.epochs - reached
        rate = sum(seconds) / len(seconds) if seconds else None
        held = self._storage.held(f"plan-{self.plan.id}")
        finished = states.get("finished", 0)
        told = [f"{states[state]:,} {_WORDS[state]}" for state in STATES if state != "finished" and states.get(state)]
        headline = f"{finished:,} of {plural(len(self._trials), 'trial')} finished" + "".join(f" · {t}" for t in told)
        self.board.put(
            views.summary_piece(
                headline=headline,
                done=done,
                epochs=epochs,
                left_s=left * rate / running if rate and running and left else None,
                running="A launch is running." if held or running else "No launch is running.",
                not_needed=[
                    (f"{space.name} / {row}" if len(self.plan.spaces) > 1 else row, why)
                    for space in self.plan.spaces
                    for row, why in space.not_needed.items()
                ],
            )
        )


_WORDS: Mapping[str, str] = {
    "training": "training", "failed": "failed", "interrupted": "interrupted", "waiting": "waiting",
    "stopped": "stopped early",
}  # fmt: skip


def _standing(trial: TrialView) -> tuple[str, int, str]:
    return trial.state, trial.measured, trial.reason


def _points(storage: CachedStorage, key: str, metric: str) -> dict[int, float]:
    return {
        int(entry["epoch"]): float(entry["metrics"][metric])
        for entry in storage.history(key)
        if metric in entry["metrics"] and math.isfinite(entry["metrics"][metric])
    }
