"""--watch: the progress of a running launch, from storage alone; nothing is written, nothing is held."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.text import Text

from ablate.core.text import plural
from ablate.execution.base import Event
from ablate.launch.console import Progress
from ablate.launch.options import Options
from ablate.storage import plans
from ablate.storage.leases import Leases
from ablate.storage.plans import PlanFile
from ablate.storage.storage import Storage, TrainingView

POLL_S = 1.0
"""Between two looks at storage."""

UNHELD_LOOKS = 3
"""So many looks in a row at which nobody holds an unfinished training mean that no launch is running."""


@dataclass(frozen=True)
class _Name:
    name: str


@dataclass(frozen=True)
class _Seeded:
    seed: int


@dataclass
class _Training:
    rows: list[str]
    spec: _Seeded
    epochs: int
    measurements: set[str]
    action: str = "train"


@dataclass
class _Plan:
    """What `Progress` needs of a plan."""

    spaces: list[_Name]
    seeds: list[int]
    trainings: dict[str, _Training] = field(default_factory=dict)


def watch_options(options: Options, console: Console) -> int:
    """Follow the launch that a command line means: of its spaces, or the one launched last.

    Args:
        options: The command line; without a space: whatever was launched last into the storage.
        console: Where to print.

    Returns:
        The exit code, as of `watch`.

    Raises:
        UserError: There is no such launch.
    """
    storage = Storage(options.storage)
    plan_id = None
    if options.space:
        from ablate.launch.request import plan_of

        plan_id = plan_of(options).id
    return watch(storage, console, plan_id=plan_id)


def watch(
    storage: Storage,
    console: Console,
    *,
    plan_id: str | None = None,
    poll_s: float = POLL_S,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Show the same progress as the launch itself, until it ends.

    Args:
        storage: Of the launch.
        console: Where to print.
        plan_id: Which plan; none: the one launched last.
        poll_s: Between two looks.
        sleep: Waits so long; a test brings its own.

    Returns:
        0 once all is there, 1 where something failed or no launch is running any more.

    Raises:
        StorageError: There is no such plan.
    """
    file = plans.load(storage, plan_id)
    leases = Leases(storage.files)  # never entered: it looks at others' leases, and makes none
    plan = _plan_of(file)
    seen = {key: storage.view(key) for key in plan.trainings}
    for key, training in plan.trainings.items():
        training.action = _action(training, seen[key])
    titles = ", ".join(space.title for space in file.spaces)
    console.print(Text(f"plan {file.id}, preset {file.preset}: {titles}", overflow="fold"))
    searches = [f"search-{file.id}"] if any(space.search is not None for space in file.spaces) else []
    launch = f"plan-{file.id}"  # held from its start, long before Ray is up and trainings are claimed
    unheld = 0
    with Progress(plan, console) as progress:  # type: ignore[arg-type]
        told: set[str] = set()
        while True:
            for key, training in plan.trainings.items():
                if training.action not in ("train", "failed"):
                    continue
                view = storage.view(key)
                if training.action == "failed" and view.failure == seen[key].failure:
                    continue  # told already, and nobody has got on with it since
                for event in _events(storage, key, training, seen[key], view, told):
                    progress.handle(event)
                seen[key] = view
                training.action = _action(training, view)
            left = [key for key, training in plan.trainings.items() if training.action == "train"]
            failed = [key for key, training in plan.trainings.items() if training.action == "failed"]
            held = any(leases.held_elsewhere(key) for key in [*left, *failed, *searches, launch])
            # A search that has ended what it began may be about to begin more, and what failed may be tried again.
            if not left and not ((searches or failed) and held):
                break
            unheld = 0 if held else unheld + 1
            if unheld >= UNHELD_LOOKS:
                progress.note(f"No launch is running; {plural(len(left), 'training')} to go.")
                return 1
            sleep(poll_s)
            newer = plans.load(storage, file.id)
            if len(newer.trials) > len(file.trials):  # a search that goes on
                file = newer
                _grow(plan, file, progress)
                seen |= {key: storage.view(key) for key in plan.trainings if key not in seen}
    return 1 if any(training.action == "failed" for training in plan.trainings.values()) else 0


def _plan_of(file: PlanFile) -> _Plan:
    plan = _Plan([_Name(space.name) for space in file.spaces], list(file.seeds))
    _grow(plan, file, None)
    return plan


def _grow(plan: _Plan, file: PlanFile, progress: Progress | None) -> None:
    for key, trials in file.trainings().items():
        if key in plan.trainings:
            continue
        measurements = {measurement for trial in trials for measurement in trial.measurements}
        rows = [f"{trial.space}/{trial.row}" for trial in trials]
        epochs = int(trials[0].spec["training"]["epochs"])
        plan.trainings[key] = _Training(rows, _Seeded(trials[0].seed), epochs, measurements)
        if progress is not None:
            progress.follow(key)


def _action(training: _Training, view: TrainingView) -> str:
    if view.finished and training.measurements <= view.records.keys():
        return "reuse"
    if view.failure is not None:
        return "failed"
    return "stopped" if view.stopped is not None else "train"


def _events(
    storage: Storage, key: str, training: _Training, before: TrainingView, now: TrainingView, told: set[str]
) -> list[Event]:
    """What a launch would have been told between two looks."""
    events: list[Event] = []
    stamp = time.time_ns() // 1_000_000
    total = len(training.measurements)
    done = len(training.measurements & now.records.keys())
    if now.attempts and key not in told:
        told.add(key)
        events.append(Event(key, "started", max(0, now.epoch), training.epochs, timestamp_ms=stamp))
        before = TrainingView(key)
    if now.epoch > before.epoch and now.epoch >= 0:
        history: list[dict[str, Any]] = storage.history(key)
        if history:
            last = history[-1]
            metrics, when = last["metrics"], last["timestamp_ms"]
            events.append(Event(key, "epoch", int(last["epoch"]), training.epochs, metrics, timestamp_ms=when))
    if now.finished and done > len(training.measurements & before.records.keys()):
        events.append(Event(key, "measured", done, total, timestamp_ms=stamp))
    action = _action(training, now)
    if action == "failed":
        events.append(Event(key, "failed", text=(now.failure or {})["reason"], timestamp_ms=stamp))
    elif action == "stopped":
        events.append(Event(key, "stopped", now.stopped or 0, training.epochs, timestamp_ms=stamp))
    elif action == "reuse":
        events.append(Event(key, "finished", timestamp_ms=stamp))
    return events
