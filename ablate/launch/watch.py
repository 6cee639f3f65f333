"""--watch: the progress of a running launch, from storage alone; nothing is written, nothing is held."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from ablate.core.errors import StorageError
from ablate.core.redaction import redact
from ablate.core.text import now_ms, plural
from ablate.execution.base import Event
from ablate.launch.progress import COUNTED, TrainingsProgress, label_of
from ablate.launch.request import Request
from ablate.spaces.specs import TrainingAttackSpec
from ablate.storage import plans
from ablate.storage.leases import Leases
from ablate.storage.plans import TrialPart
from ablate.storage.status import TrainingStatus, TrainingView
from ablate.storage.storage import Storage

POLL_S = 1.0
"""Between two looks at storage."""

UNHELD_LOOKS = 3
"""So many looks in a row at which nobody holds an unfinished training mean that no launch is running."""


@dataclass
class _Watched:
    """A training of the plan, and how it was at the last look."""

    rows: list[str]
    seed: int
    epochs: int
    attack: str
    measurements: set[str]
    view: TrainingView
    begun: bool = False

    @property
    def status(self) -> TrainingStatus:
        return self.view.status(self.measurements)

    @property
    def under_way(self) -> bool:
        """Whether a launch has something to do about it."""
        return self.status not in (TrainingStatus.FINISHED, TrainingStatus.FAILED, TrainingStatus.STOPPED)


def watch_request(request: Request, console: Console) -> int:
    """Follow the launch that a command line means: of its spaces, or the one launched last.

    Args:
        request: Without a space: whatever was launched last into the storage.
        console: Where to print.

    Returns:
        The exit code, as of `watch`.

    Raises:
        UserError: There is no such launch.
    """
    plan_id = request.plan().id if request.spaces else None
    storage = Storage(request.options.storage)
    there = plans.plan_ids(storage)
    if there and plan_id is not None and plan_id not in there:
        raise StorageError(
            f"--watch: expected a launch with these options in {redact(storage.location)} (plan {plan_id}), "
            "got others; without --space the last one is followed"
        )
    return watch(storage, console, plan_id=plan_id)


def watch(
    storage: Storage,
    console: Console,
    *,
    plan_id: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Show the same progress as the launch itself, until it ends.

    Args:
        storage: Of the launch.
        console: Where to print.
        plan_id: Which plan; none: the one launched last.
        sleep: Waits so long; a test brings its own.

    Returns:
        0 once all is there, 1 where something failed or no launch is running any more.

    Raises:
        StorageError: There is no such plan.
    """
    file = plans.load(storage, plan_id)
    leases = Leases(storage.files)  # never entered: it looks at others' leases, and makes none
    trainings = {key: _watched(storage, key, trials) for key, trials in file.trainings().items()}
    titles = ", ".join(space.title for space in file.spaces)
    console.print(Text(f"plan {file.id}, preset {file.preset}: {titles}", overflow="fold"))
    searches = [f"search-{file.id}"] if any(space.search is not None for space in file.spaces) else []
    launch = f"plan-{file.id}"  # held from its start, long before Ray is up and trainings are leased
    unheld = 0

    def label(key: str) -> tuple[str, str]:
        watched = trainings[key]
        seed = watched.seed if len(file.seeds) > 1 else None
        return label_of(key, watched.rows, [space.name for space in file.spaces], seed)

    def counted(key: str) -> str:
        return COUNTED.get(trainings[key].status, "to go")

    def attack(key: str) -> str:
        return trainings[key].attack

    with TrainingsProgress(
        trainings, console, label=label, counted=counted, attack=attack, log=storage.log_place
    ) as progress:
        while True:
            for key, watched in trainings.items():
                failed_before = watched.status is TrainingStatus.FAILED
                if not watched.under_way and not failed_before:
                    continue
                view = storage.view(key)
                if failed_before and view.failure == watched.view.failure:
                    continue  # told already, and nobody has got on with it since
                for event in _events(storage, key, watched, view):
                    progress.handle(event)
                watched.view = view
            left = [key for key, watched in trainings.items() if watched.under_way]
            failed = [key for key, watched in trainings.items() if watched.status is TrainingStatus.FAILED]
            held = any(leases.held_elsewhere(key) for key in [*left, *failed, *searches, launch])
            # What has ended what it began may be about to begin more, and what failed may be tried again.
            if not left and not ((searches or file.until is not None or failed) and held):
                break
            unheld = 0 if held else unheld + 1
            if unheld >= UNHELD_LOOKS:
                progress.note(f"No launch is running; {plural(len(left), 'training')} to go.")
                return 1
            sleep(POLL_S)
            newer = plans.load(storage, file.id)
            if len(newer.trials) > len(file.trials):  # a search that goes on
                file = newer
                for key, trials in file.trainings().items():
                    if key not in trainings:
                        trainings[key] = _watched(storage, key, trials)
                        progress.follow(key)
    return 1 if any(watched.status is TrainingStatus.FAILED for watched in trainings.values()) else 0


def _watched(storage: Storage, key: str, trials: Sequence[TrialPart]) -> _Watched:
    return _Watched(
        rows=[f"{trial.space}/{trial.row}" for trial in trials],
        seed=trials[0].seed,
        epochs=0 if trials[0].spec["model"].get("weights") else int(trials[0].spec["training"]["epochs"]),
        attack=TrainingAttackSpec.model_validate(trials[0].spec["training"].get("attack", {})).title,
        measurements={measurement for trial in trials for measurement in trial.measurements},
        view=storage.view(key),
    )


def _events(storage: Storage, key: str, training: _Watched, now: TrainingView) -> list[Event]:
    """What a launch would have been told between two looks."""
    before = training.view
    events: list[Event] = []
    stamp = now_ms()
    total = len(training.measurements)
    done = len(training.measurements & now.records.keys())
    if now.attempts and not training.begun:
        training.begun = True
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
    status = now.status(training.measurements)
    if status is TrainingStatus.FAILED:
        events.append(Event(key, "failed", text=now.reason or "", timestamp_ms=stamp))
    elif status is TrainingStatus.STOPPED:
        events.append(Event(key, "stopped", now.stopped or 0, training.epochs, timestamp_ms=stamp))
    elif status is TrainingStatus.FINISHED:
        events.append(Event(key, "finished", timestamp_ms=stamp))
    return events
