"""What is to be run, what is told while it runs, how it ends, and what runs it: a queue and an executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeVar

from ablate.learning.data import dataset_name
from ablate.spaces.planned_measurement import PlannedMeasurement
from ablate.spaces.specs import TrialSpec

Kind = Literal["started", "epoch", "measuring", "measured", "finished", "failed", "interrupted", "stopped"]


@dataclass(frozen=True)
class Event:
    """One step of one training.

    Args:
        key: The training's key.
        kind: What happened. `started` says from which epoch on; `measuring` and `measured` count measurements;
            `stopped` says after which epoch a search stopped it early; `interrupted`, that the same command goes on.
        done: Epochs or measurements done.
        total: Of how many.
        metrics: Of the epoch, e.g. `train/loss`, `train/accuracy_attack` (percent), `images_per_second`.
        text: What is measured, or why it failed or was interrupted, or a warning.
        timestamp_ms: When, milliseconds since 1970.
        share: Of the measurements' work that is done, 0 to 1; None where it is not known.
    """

    key: str
    kind: Kind
    done: int = 0
    total: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    text: str = ""
    timestamp_ms: int = 0
    share: float | None = None


Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Lease:
    """By what right a worker trains: it takes the training's lease when it starts, in its launch's name.

    Args:
        owner: The launch.
        free: The highest lease of the training that the launch knows to be free; a later one is somebody's.
    """

    owner: str
    free: int = 0


@dataclass(frozen=True)
class Task:
    """What a worker is asked to do.

    Args:
        key: The training's key.
        spec: The trial that trains it.
        measurements: All that hang on it; those with a record are left alone.
        storage: The storage's location.
        threads: CPU threads of this worker; sums depend on it in their last bits.
        device: `cpu`, `cuda` or `cuda:0`.
        gpu_share: The part of a GPU's memory its process may use; below 1, running out of it is no failure yet.
        together: How many trainings its process began with; among several, running out of memory is no failure yet.
        lease: Taken before anything is written, and looked at before training, at every epoch and at every
            measurement; None where nobody else could work on it.
        retry_failed: Train what has a stored failure.
        failed_at: When that failure was stored, by its own time stamp; a later one is of this task, which another
            process was given once more for another training's sake, and stays.
        weights: Digest of the weights in storage that its network has, and is not trained; None of a training.
        keep: Networks that are kept beside `last` and `best`, as keys call them.
    """

    key: str
    spec: TrialSpec
    measurements: tuple[PlannedMeasurement, ...]
    storage: str
    threads: int = 1
    device: str = "cpu"
    gpu_share: float = 1.0
    together: int = 1
    lease: Lease | None = None
    retry_failed: bool = True
    failed_at: int | None = None
    weights: str | None = None
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Args:
        key: The training's key.
        state: `interrupted` by what passes, so that the same command goes on (`ablate.execution.faults` says by what);
            `stopped` early, after `epoch`; `not_mine` where another launch holds the training or has taken it over.
        reason: One line of why it failed or was interrupted.
        needs_more_memory: It failed only for want of memory in its share, or beside others in its process.
        epoch: The last one trained, of what was stopped early.
    """

    key: str
    state: Literal["finished", "failed", "interrupted", "stopped", "not_mine"]
    reason: str = ""
    needs_more_memory: bool = False
    epoch: int = 0


@dataclass(frozen=True)
class Job:
    """What one process is given at once.

    Args:
        tasks: One, or several that take turns in it; who runs them fills in threads, device and share.
        judged: Whether early stopping may end them; False where only measurements are left.
        whole_gpu: It ran out of memory in its part of a GPU.
    """

    tasks: tuple[Task, ...]
    judged: bool = False
    whole_gpu: bool = False

    def placed(self, threads: int, device: str, gpu_share: float = 1.0) -> Job:
        """This job with what each of its tasks gets."""
        together = len(self.tasks)
        given = [
            replace(task, threads=threads, device=device, gpu_share=gpu_share, together=together) for task in self.tasks
        ]
        return replace(self, tasks=tuple(given))


_Data = TypeVar("_Data")


def dataset_of(task: Task, datasets: Mapping[str, _Data]) -> _Data:
    """What a task is trained on, of what there is by name."""
    return datasets[dataset_name(task.spec.data)]


GroupSize = Callable[[TrialSpec], int]
"""How many trainings like this one share a process."""


def alone(spec: TrialSpec) -> int:
    """Every training has its process for itself."""
    return 1


class Queue(Protocol):
    """Gives out jobs, and learns how their tasks end; called by the launch's own process, from one thread."""

    def next(self, together: GroupSize = alone) -> Job | Literal["wait"] | None:
        """The next job; `wait` where there may be one later, None at the end.

        Args:
            together: How many tasks it may have.
        """

    def ended(self, key: str, outcome: Outcome) -> None:
        """A task of a job has ended; called once for each."""


class EarlyStopping(Protocol):
    """Judges epochs while trainings run."""

    metric: str

    def should_continue(self, key: str, epoch: int, value: float) -> bool:
        """Whether a training goes on after an epoch."""


@dataclass(frozen=True)
class Resources:
    """What a launch asks for.

    Args:
        trainings: How many there are: they share what there is.
        cpus: CPU cores, and threads, of a training; None: an equal share.
        gpus: GPUs of a training; fractions share one; `auto`: by its network; None: one where there are any.
        per_process: Trainings that take turns in a process; `auto`: by what was measured on a GPU; None: one, and as
            `auto` where `gpus` is.
        max_concurrent: Trainings at once; 0 for as many as fit.
        max_failures: How often a lost process is started again.
    """

    trainings: int = 1
    cpus: int | None = None
    gpus: float | Literal["auto"] | None = None
    per_process: int | Literal["auto"] | None = None
    max_concurrent: int = 0
    max_failures: int = 2


class Executor(Protocol):
    """Runs what a queue gives out, until it gives out nothing more."""

    def run(self, queue: Queue, listen: Listener, stopping: EarlyStopping | None = None) -> None:
        """Run.

        Args:
            queue: Asked for jobs, and told how each task ended.
            listen: Called in this process with every event of every training.
            stopping: Judges the epochs of jobs that are `judged`.
        """
