"""`verify --retrain ROW`: a row of a bundle trained and measured again here, and compared bit by bit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace

from ablate.bundle.rows import Here, find_row, planned
from ablate.bundle.verification import Opened
from ablate.core.errors import SpecError
from ablate.core.text import duration
from ablate.execution.base import Event, GroupSize, Job, Lease, Outcome, Resources, Task, alone
from ablate.execution.local import LocalExecutor
from ablate.planning.datasets import load_for
from ablate.report.replications import replications_of
from ablate.storage.export import stored_training
from ablate.storage.leases import Leases
from ablate.storage.plans import TrialPart
from ablate.storage.replications import open_one
from ablate.storage.storage import Storage

_FOR_LONG = "python -m ablate.launch --rerun ROW --also BUNDLE does it where it may be interrupted"


def check(opened: Opened, row: str, seed: int | None, here: Here, tell: Callable[[str], None]) -> list[str]:
    """Train a row again.

    Args:
        opened: The bundle.
        row: Its label, or `space/label`.
        seed: None: the first that is finished.
        here: What it needs of this machine.
        tell: Called with what goes on, and how it came out.

    Returns:
        A line where it came out as it cannot by chance, or cannot be the same training here.

    Raises:
        UserError: No such row, or its data are not here.
    """
    part = find_row(opened, row, seed)
    training, reasons = planned(opened, part, here)
    if reasons:
        return reasons
    if training.weights is not None:
        raise SpecError(f"--retrain: expected a row that was trained, got {row!r} of foreign weights")
    seconds = sum(float(entry["metrics"].get("seconds", 0.0)) for entry in opened.storage.history(part.training))
    where, threads = _made_on(opened, part)
    tell(f"{part.row}, seed {part.seed}: it took {duration(seconds)} on {where} to train; {_FOR_LONG}")
    with tempfile.TemporaryDirectory(prefix="ablate-") as folder:
        storage = Storage(folder)
        row_parts = [t for t in opened.plan.trials if (t.space, t.row) == (part.space, part.row)]
        for key in dict.fromkeys(t.training for t in row_parts):
            for path, content in stored_training(opened.storage, key, checkpoints=False):
                storage.files.write(path, content)
        wanted = {key: each for key, each in training.measurements.items() if key in part.measurements}
        _, inner = open_one(storage, {part.training: list(wanted)})

        def listen(event: Event) -> None:
            if event.kind == "epoch":
                tell(f"epoch {event.done} of {event.total}")
            elif event.kind == "measuring":
                tell(f"measuring {event.text}")

        datasets = load_for([replace(training, measurements=wanted)], here.data_root)
        # In this process, which knows the user's own names.
        executor = LocalExecutor(Resources(1, threads, 0.0 if where == "cpu" else None), datasets, inner.files, tell)
        with Leases(inner.files) as leases:
            lease, measurements = Lease(leases.owner), tuple(wanted.values())
            queue = _Once(
                Task(part.training, training.spec, measurements, inner.location, lease=lease, keep=tuple(training.keep))
            )
            executor.run(queue, listen)
        [outcome] = queue.outcomes
        if outcome.state != "finished":
            return [f"{part.row}, seed {part.seed}: not trained again ({outcome.state}: {outcome.reason})"]
        [found] = replications_of(storage, row_parts)[part.seed]
    line = f"{part.row}, seed {part.seed}: {found.words}"
    if found.ending == "outside":
        return [line]
    tell(line)
    return []


class _Once:
    """A queue of one task."""

    def __init__(self, task: Task) -> None:
        self._jobs = [Job((task,))]
        self.outcomes: list[Outcome] = []

    def next(self, together: GroupSize = alone) -> Job | None:
        return self._jobs.pop() if self._jobs else None

    def ended(self, key: str, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def _made_on(opened: Opened, part: TrialPart) -> tuple[str, int]:
    """On what device, and with how many threads, on which the last bits of sums hang."""
    view = opened.storage.view(part.training)
    for key in sorted(part.measurements & view.records.keys()):
        record = opened.storage.record(view, key)
        if record is not None and "device" in record.meta:
            return str(record.meta["device"]), int(record.meta.get("threads", 1))
    return "cpu", 1
