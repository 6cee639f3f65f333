"""A job's tasks in one process: each takes its turn, and ends for itself.

A training's own error ends that training alone. What spoils the process (a GPU that failed) interrupts all of them:
each goes on from its checkpoint in another process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ablate.core.errors import DeviceError
from ablate.core.text import now_ms
from ablate.execution import worker
from ablate.execution.base import Event, Listener, Outcome, Task, dataset_of
from ablate.execution.crashes import undisturbed
from ablate.execution.early_stopping import judged
from ablate.execution.watchdog import Hung
from ablate.learning.data import Dataset
from ablate.learning.turns import Turns, in_turn


def never_stopped(key: str, epoch: int, value: float) -> bool:
    """No epoch is judged."""
    return True


def run_tasks(
    tasks: Sequence[Task],
    datasets: Mapping[str, Dataset],
    listen: Listener,
    ended: Callable[[Outcome], None],
    metric: str | None = None,
    should_continue: Callable[[str, int, float], bool] = never_stopped,
) -> None:
    """Run tasks in turn.

    Args:
        tasks: One or several, of this process and its device.
        datasets: By name.
        listen: Called at every step of each.
        ended: Called once for each, as soon as it has ended.
        metric: What early stopping judges; None where nothing is judged.
        should_continue: As of `ablate.execution.early_stopping.judged`.

    Raises:
        DeviceError: The GPU failed this process for good: those that have not ended may go on in another one.
    """
    spoiled: list[BaseException] = []

    def one(task: Task) -> Turns[Outcome | None]:
        def work(heard: Listener) -> Turns[Outcome]:
            return worker.run_in_turns(task, dataset_of(task, datasets), heard)

        return _guarded(task, judged(task, work, listen, metric, should_continue), listen, spoiled)

    def tell(key: str, outcome: Outcome | None) -> None:
        left.discard(key)
        if outcome is not None:
            ended(outcome)

    left = {task.key for task in tasks}
    try:
        with undisturbed():
            in_turn({task.key: one(task) for task in tasks}, tell)
    except Hung as hung:  # between two turns
        for task in tasks:
            if task.key in left:
                ended(_hung(task, hung, listen))
    if spoiled:
        raise spoiled[0]


def _guarded(task: Task, work: Turns[Outcome], listen: Listener, spoiled: list[BaseException]) -> Turns[Outcome | None]:
    """A task's work; None where the process is spoiled, by this or by another one."""
    while True:
        try:
            if spoiled:
                work.throw(spoiled[0].__cause__ or spoiled[0])
            else:
                next(work)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        except Hung as hung:
            return _hung(task, hung, listen)
        except DeviceError as error:
            spoiled.append(error)
            return None
        except Exception:
            if spoiled:  # it had not begun
                return None
            raise
        yield


def _hung(task: Task, hung: Hung, listen: Listener) -> Outcome:
    listen(Event(task.key, "interrupted", text=str(hung), timestamp_ms=now_ms()))
    return Outcome(task.key, "interrupted", str(hung))
