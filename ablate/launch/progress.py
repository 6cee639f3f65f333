"""How a launch goes on: a live line for each active training, or plain lines where there is no terminal."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ablate.core.errors import UserError
from ablate.core.redaction import redact
from ablate.core.text import duration, fit, left_over, printable, row_name
from ablate.execution.base import Event
from ablate.storage.status import TrainingStatus

if TYPE_CHECKING:
    from ablate.planning.plan import Plan

_PLAIN_EVERY_S = 10.0
_PACE_WINDOW = 8
_COLUMNS = (("progress", 10), ("loss", 6), ("accuracy", 15), ("images/s", 8), ("left", 7))
_STATE_WIDTH = 14
_LEAST_LABEL = 10
_BAR_WIDTH = 20
_DROP_ORDER = ("progress", "images/s", "loss", "accuracy", "left")
_ACCURACIES = ("train/accuracy_attack", "train/accuracy", "train/accuracy_natural")


class _Pace:
    """How fast something gets done, in shares of all of it, from its last few steps in this run."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float, bool]] = deque(maxlen=_PACE_WINDOW + 1)

    def mark(self, done: float, now: float, *, setting_up: bool = False) -> None:
        if self._marks and done < self._marks[-1][0]:  # the training fell back to an earlier checkpoint
            self._marks.clear()
        if self._marks and done == self._marks[-1][0]:
            self._marks.pop()
        self._marks.append((done, now, setting_up))
        if len(self._marks) > 2 and self._marks[0][2]:  # steps enough without the time it took to set up
            self._marks.popleft()

    def left(self, now: float) -> float | None:
        if len(self._marks) < 2:
            return None
        (first, start, _), (last, end, _) = self._marks[0], self._marks[-1]
        return max(0.0, (1.0 - last) * (end - start) / (last - first) - (now - end))


def bar(share: float, width: int, *, plain: bool = False) -> str:
    """How much is done, as a line of so many cells.

    Args:
        share: Of 1.
        width: In cells.
        plain: In characters that every terminal has.
    """
    full = min(width, max(0, int(share * width + 1e-9)))
    done, rest = ("#", ".") if plain else ("━", "─")
    return done * full + rest * (width - full)


@dataclass
class _Active:
    """What is known of a training that has told anything."""

    started: float
    state: Literal["running", "done", "failed", "interrupted", "stopped early"] = "running"
    measuring: bool = False
    what: str = ""
    done: int = 0
    total: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    took: float = 0.0
    pace: _Pace = field(default_factory=_Pace)
    printed: float = float("-inf")

    def describe(self, width: int | None = None) -> str:
        """What it does, in so many cells where a width is given."""
        if not self.measuring:
            return f"epoch {self.done}/{self.total}" if self.metrics else "starting"
        name, space, percent = (self.what or "measuring").partition(" ")  # how far a long one is: never cut
        rest = f"{space}{percent.replace(' ', '')} {self.done}/{self.total}"
        return (name if width is None else fit(name, max(3, width - len(rest))).rstrip()) + rest


COUNTED = {TrainingStatus.FINISHED: "done", TrainingStatus.FAILED: "failed", TrainingStatus.STOPPED: "stopped early"}
"""How a training is counted by its status; any other is to go."""


class TrainingsProgress:
    """The terminal while trainings go on; every method may be called from any thread.

    Args:
        keys: Of the trainings; more may join (`follow`).
        out: Where to print.
        label: Key -> how the training is called: what may be cut where room is short, and what follows it.
        counted: Key -> how one that has told nothing yet is counted, as of `COUNTED`.
        attack: Key -> what its training accuracy is under, as of `TrainingAttackSpec.title`.
        log: Key -> where the log of its last attempt is; empty before one.
        clock: Seconds, monotonic; a test brings its own.
        every_s: Between two plain lines of one training's epochs.
    """

    def __init__(
        self,
        keys: Iterable[str],
        out: Console,
        *,
        label: Callable[[str], tuple[str, str]],
        counted: Callable[[str], str],
        attack: Callable[[str], str],
        log: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
        every_s: float = _PLAIN_EVERY_S,
    ) -> None:
        self._label_of = label
        self._counted = counted
        self._attack = attack
        self._log = log
        self._began = clock()
        self._out = out
        self._clock = clock
        self._every_s = every_s
        self._lock = threading.Lock()
        self._active: dict[str, _Active] = {}
        self._names = {key: label(key) for key in keys}
        self._shown_waiting: set[str] = set()
        self._live: Live | None = None
        self.phase = ""
        """What goes on before the first training tells anything."""

    def __enter__(self) -> Self:
        if self._out.is_interactive:
            self._live = Live(
                console=self._out,
                get_renderable=lambda: Group(*self.lines()),
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._print(self.count())

    def handle(self, event: Event) -> None:
        """Take in what a training tells.

        Args:
            event: Of one of the trainings; others are passed over.
        """
        if event.key not in self._names:
            return
        with self._lock:
            lines = self._take(event)
        for line, style in lines:  # outside the lock: the live area takes it while it holds the console's
            self._print(line, style)
        if event.kind == "failed":
            self._print_log(event.key)

    def _print_log(self, key: str) -> None:
        try:
            place = self._log(key)
        except UserError:  # a storage that does not answer is told of by whoever needs it
            return
        if place:  # in one line, so that it can be copied
            self._out.print(Text(f"  its log: {printable(redact(place))}", style="dim"), soft_wrap=True)

    def follow(self, key: str) -> None:
        """Take in a training that has joined, as the samples of a search do."""
        with self._lock:
            self._names[key] = self._label_of(key)

    def forget(self, key: str) -> None:
        """Leave out a training that is not wanted any more."""
        with self._lock:
            self._names.pop(key, None)
            self._active.pop(key, None)

    def note(self, text: str) -> None:
        """Print a remark above the live area."""
        self._print(printable(text))

    def waiting(self, keys: Iterable[str]) -> None:
        """Say once about each training that another launch holds it.

        Args:
            keys: The trainings waited for now.
        """
        for key in keys:
            with self._lock:
                self._active.pop(key, None)  # this launch may have begun it, and lost it to the other
                new = key in self._names and key not in self._shown_waiting
                self._shown_waiting.add(key)
            if new:
                self.note(f"{self._label(key)}: another launch trains it; waiting for its result")

    def count(self) -> str:
        """All trainings in one line: `12 done · 2 running · 5 to go · 1 failed`."""
        with self._lock:
            return self._count()

    def lines(self) -> list[Text]:
        """What the live area shows now: a head, a line for each active training, the whole launch, the count.

        Returns:
            As many lines as fit the terminal, each within its width; trainings beyond are counted.
        """
        width = self._out.width
        with self._lock:
            active = [(key, what) for key, what in self._active.items() if what.state == "running"]
            room = max(1, self._out.height - 5)
            shown = active if len(active) <= room + 1 else active[:room]
            names = self._columns(width)
            texts = (
                [Text(self._row(width, names, "training", "state", {name: name for name in names}), "dim")]
                if active
                else []
            )
            texts += [Text(self._line_of(key, what, width, names)) for key, what in shown]
            texts += [Text(fit(more, width).rstrip(), "dim") for more in left_over(len(active), len(shown))]
            if self.phase and not self._active:
                since = duration(self._clock() - self._began)
                texts.append(Text(fit(f"{self.phase} {since}", width).rstrip(), "dim"))
            if active:
                texts.append(Text(fit(self._whole(), width).rstrip()))
            texts.append(Text(fit(self._count(), width).rstrip(), "bold"))
        for text in texts:
            text.no_wrap, text.overflow = True, "crop"
        return texts

    def _label(self, key: str, width: int | None = None) -> str:
        name, rest = self._names[key]
        if width is None:
            return name + rest
        if len(rest) > width - 4:
            return fit(name + rest, width)
        return fit(fit(name, width - len(rest)).rstrip() + rest, width)

    def _columns(self, width: int) -> list[str]:
        names = [name for name, _ in _COLUMNS]
        for name in _DROP_ORDER:
            if width - self._taken(names) >= _LEAST_LABEL:
                break
            names.remove(name)
        return names

    @staticmethod
    def _taken(names: list[str]) -> int:
        return 1 + _STATE_WIDTH + sum(1 + width for name, width in _COLUMNS if name in names)

    def _row(self, width: int, names: list[str], label: str, state: str, cells: dict[str, str]) -> str:
        parts = [fit(label, max(1, width - self._taken(names))), fit(state, _STATE_WIDTH)]
        parts += [fit(cells.get(name, ""), size, right=True) for name, size in _COLUMNS if name in names]
        return fit(" ".join(parts), width)

    def _line_of(self, key: str, what: _Active, width: int, names: list[str]) -> str:
        label = self._label(key, max(1, width - self._taken(names)))
        return self._row(width, names, label, what.describe(_STATE_WIDTH), self._cells(key, what))

    def _whole(self) -> str:
        """How far the launch is, since when, and for how long yet, by what its trainings took and have left."""
        now = self._clock()
        elapsed, left = now - self._began, self._time_left(now)
        told = f"{duration(elapsed)} so far"
        if left is None:
            return f"{self._bar(0.0, _BAR_WIDTH)} {told}"
        share = min(0.99, elapsed / (elapsed + left) if elapsed + left > 0 else 1.0)  # what still runs is not whole
        rest = f"about {duration(left)} left" if left >= 1 else "nearly done"
        return f"{self._bar(share, _BAR_WIDTH)} {100 * share:.0f} % · {told} · {rest}"

    def _time_left(self, now: float) -> float | None:
        """What its active trainings have left, and for each that is to go what one takes; None without a pace."""
        lefts, whole = [], []
        for what in self._active.values():
            if what.state == "running":
                left = what.pace.left(now)
                if left is not None:
                    lefts.append(left)
                    whole.append(now - what.started + left)
            elif what.state == "done":
                whole.append(what.took)
        if not lefts:
            return None
        waits = sum(key not in self._active and self._counted(key) == "to go" for key in self._names)
        return (sum(lefts) + waits * sum(whole) / len(whole)) / len(lefts)

    def _bar(self, share: float, width: int) -> str:
        return bar(share, width, plain=not self._out.encoding.lower().startswith("utf"))

    def _cells(self, key: str, what: _Active) -> dict[str, str]:
        cells = {}
        if what.total and (what.metrics or what.measuring):
            cells["progress"] = self._bar(what.done / what.total, dict(_COLUMNS)["progress"])
        if "train/loss" in what.metrics:
            loss = what.metrics["train/loss"]
            cells["loss"] = f"{loss:.3f}" if abs(loss) < 100 else f"{loss:.3g}"
        accuracy = next((name for name in _ACCURACIES if name in what.metrics), None)
        if accuracy is not None:
            attack = "" if accuracy == _ACCURACIES[-1] else self._attack(key)
            cells["accuracy"] = f"{what.metrics[accuracy]:.1f} % {attack or 'natural'}"
        if "images_per_second" in what.metrics:
            cells["images/s"] = f"{what.metrics['images_per_second']:,.0f}"
        left = what.pace.left(self._clock())
        if left is not None and (what.measuring or what.done < what.total):  # measuring has a pace of its own
            cells["left"] = duration(left)
        return cells

    def _count(self) -> str:
        counts = dict.fromkeys(("done", "running", "to go", "stopped early", "waiting", "interrupted", "failed"), 0)
        for key in self._names:
            what = self._active.get(key)
            counts[what.state if what else self._counted(key)] += 1
        return " · ".join(
            f"{count:,} {name}" for name, count in counts.items() if count or name in ("done", "running", "to go")
        )

    def _take(self, event: Event) -> list[tuple[str, str]]:
        """Change the state, return what to print with its style."""
        now, plain = self._clock(), self._live is None
        label, text = self._label(event.key), printable(event.text)
        what = self._active.get(event.key)
        lines: list[tuple[str, str]] = []
        if what is None or event.kind == "started":
            if what is not None and what.state == "running":
                lines.append((f"warning: {label}: started again at epoch {max(0, event.done)}", "yellow"))
            what = self._active[event.key] = _Active(now)
        at = (
            time.strftime("%H:%M:%S ", time.localtime(event.timestamp_ms / 1000))
            if plain and event.timestamp_ms
            else ""
        )
        if event.kind == "finished":
            what.state, what.took = "done", now - what.started
            numbers = self._numbers(event.key, what, ("loss", "accuracy"))
            # Of a training whose end is all that was heard of it, nobody here knows how long it took.
            ended = f"finished in {duration(what.took)}{numbers}" if what.took >= 0.5 else f"finished{numbers}"
            return [*lines, (f"{at}{label}: {ended} ({self._count()})", "green")]
        if event.kind == "failed":
            what.state = "failed"
            return [*lines, (f"{at}{label}: failed: {text or 'no reason given'} ({self._count()})", "red")]
        if event.kind == "interrupted":
            what.state = "interrupted"
            ended = f"interrupted: {text or 'no reason given'}; the same command goes on"
            return [*lines, (f"{at}{label}: {ended} ({self._count()})", "yellow")]
        if event.kind == "stopped":
            what.state = "stopped early"
            ended = f"stopped early after epoch {event.done} of {event.total}"
            return [*lines, (f"{at}{label}: {ended} ({self._count()})", "")]
        what.state, what.done, what.total = "running", max(0, event.done), event.total
        measuring = event.kind in ("measuring", "measured")
        if measuring != what.measuring:
            what.measuring, what.pace = measuring, _Pace()
        share = what.done / max(what.total, 1) if event.share is None else event.share
        what.pace.mark(share, now, setting_up=event.kind == "started")
        if measuring:
            what.what = text or what.what
            what.metrics.pop("images_per_second", None)  # that was the training's
        else:
            what.metrics |= event.metrics
            if text:
                lines.append((f"warning: {label}: {text}", "yellow"))
        if plain and event.kind == "started":
            what.printed = now
            at_epoch = f"at epoch {what.done} of {what.total}" if what.total else "with weights from elsewhere"
            lines.append((f"{at}{label}: starts {at_epoch}", ""))
        elif plain and now - what.printed >= self._every_s:
            what.printed = now
            numbers = self._numbers(event.key, what, [name for name, _ in _COLUMNS])
            lines.append((f"{at}{label}: {what.describe()}{numbers}", ""))
        return lines

    def _numbers(self, key: str, what: _Active, names: Sequence[str]) -> str:
        cells = self._cells(key, what)
        said = {"loss": "loss {}", "accuracy": "accuracy {}", "images/s": "{} images/s", "left": "{} left"}
        return "".join(", " + said[name].format(cells[name]) for name in names if name in cells and name in said)

    def _print(self, line: str, style: str = "") -> None:
        self._out.print(Text(line, style=style, overflow="fold"))


class Progress(TrainingsProgress):
    """The terminal during a launch; every method may be called from any thread.

    Args:
        plan: What is launched; trainings that have told nothing yet are counted by its current actions.
        out: Where to print.
        log: Key -> where the log of a training's last attempt is, as of `Storage.log_place`.
        clock: Seconds, monotonic; a test brings its own.
        every_s: Between two plain lines of one training's epochs.
    """

    def __init__(
        self,
        plan: Plan,
        out: Console,
        *,
        log: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
        every_s: float = _PLAIN_EVERY_S,
    ) -> None:
        def label(key: str) -> tuple[str, str]:
            training = plan.trainings[key]
            seed = training.spec.seed if len(plan.seeds) > 1 else None
            return label_of(key, training.rows, [space.name for space in plan.spaces], seed)

        def counted(key: str) -> str:
            return _BY_ACTION.get(plan.trainings[key].action, "to go")

        def attack(key: str) -> str:
            return plan.trainings[key].spec.training.attack.title

        super().__init__(
            plan.trainings, out, label=label, counted=counted, attack=attack, log=log, clock=clock, every_s=every_s
        )


_BY_ACTION = {
    "reuse": COUNTED[TrainingStatus.FINISHED],
    "failed": COUNTED[TrainingStatus.FAILED],
    "stopped": COUNTED[TrainingStatus.STOPPED],
    "wait": "waiting",
}


def label_of(key: str, rows: Iterable[str], spaces: Sequence[str], seed: int | None) -> tuple[str, str]:
    """How a training is called.

    Args:
        key: Its key.
        rows: `space/row` of all that share it.
        spaces: Names of all that are planned.
        seed: None where all trainings have the same.

    Returns:
        Its first row, which may be cut, and what follows it: how many others share it, its seed.
    """
    names = list(dict.fromkeys(row_name(row, spaces) for row in rows)) or [key[:8]]
    others = f" +{len(names) - 1}" if len(names) > 1 else ""
    return names[0], others + (f" seed {seed}" if seed is not None else "")
