"""A training whose epochs early stopping judges, where it runs outside of Tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ablate.execution.base import Event, Listener, Outcome, Task
from ablate.storage.storage import Storage


class StoppedEarly(BaseException):
    """Early stopping has ended the training; no error, and nothing that a worker may catch."""


def run_judged(
    task: Task,
    work: Callable[[Listener], Outcome],
    listen: Listener,
    metric: str | None,
    should_continue: Callable[[int, float], bool],
) -> Outcome:
    """Run a training, and end it after the epoch that early stopping says; never after its last.

    Args:
        task: What is run; the epochs that storage holds of it are judged first, whoever trained them.
        work: Runs it.
        listen: Called at every step.
        metric: What is judged; None where nothing is.
        should_continue: Asked with an epoch and its value.

    Returns:
        How it ended.
    """
    last = 0

    def judge(epoch: int, metrics: Mapping[str, float]) -> None:
        nonlocal last
        if metric is None or epoch < 1 or metric not in metrics:
            return
        last = epoch
        if not should_continue(epoch, metrics[metric]) and epoch < task.spec.training.epochs:
            raise StoppedEarly

    def heard(event: Event) -> None:
        listen(event)
        if event.kind == "epoch":
            judge(event.done, event.metrics)

    try:
        for entry in Storage(task.storage).history(task.key) if metric is not None else ():
            judge(int(entry["epoch"]), entry["metrics"])
        return work(heard)
    except StoppedEarly:
        return Outcome(task.key, "stopped", epoch=last)
