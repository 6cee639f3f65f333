"""A training whose epochs early stopping judges: the one way of it, in this process, in others and under Tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ablate.execution.base import Event, Listener, Outcome, Task
from ablate.learning.turns import Turns
from ablate.storage.storage import Storage


class StoppedEarly(BaseException):
    """Early stopping has ended the training; no error, and nothing that a worker may catch."""


def judged(
    task: Task,
    work: Callable[[Listener], Turns[Outcome]],
    listen: Listener,
    metric: str | None,
    should_continue: Callable[[str, int, float], bool],
) -> Turns[Outcome]:
    """Run a training, and end it after the epoch that early stopping says; never after its last.

    Args:
        task: What is run; the epochs that storage holds of it are judged first, whoever trained them.
        work: Runs it.
        listen: Called at every step.
        metric: What is judged; None where nothing is.
        should_continue: Asked with the training's key, an epoch and its value.
    """
    last, stored_judged = 0, metric is None

    def judge(epoch: int, metrics: Mapping[str, float]) -> None:
        nonlocal last
        if metric is None or epoch < 1 or metric not in metrics:
            return
        last = epoch
        if not should_continue(task.key, epoch, metrics[metric]) and epoch < task.spec.training.epochs:
            raise StoppedEarly

    def heard(event: Event) -> None:
        nonlocal stored_judged
        listen(event)
        if event.kind == "started" and not stored_judged:
            stored_judged = True
            # Not before: what is stopped has to be this launch's, by its lease, to be recorded as stopped.
            for entry in Storage(task.storage).history(task.key):
                judge(int(entry["epoch"]), entry["metrics"])
        if event.kind == "epoch":
            judge(event.done, event.metrics)

    try:
        return (yield from work(heard))
    except StoppedEarly:
        return Outcome(task.key, "stopped", epoch=last)


class TimeLimit:
    """Stops trainings where the search's time is up, never after their last epoch."""

    def __init__(self, metric: str, epochs: int, over: Callable[[], bool]) -> None:
        self.metric = metric
        self._epochs = epochs
        self._over = over

    def should_continue(self, key: str, epoch: int, value: float) -> bool:
        """See `EarlyStopping`."""
        return epoch >= self._epochs or not self._over()
