"""How many trainings share a GPU, and a process: a small network leaves most of a GPU idle, for it waits for kernels
to be launched."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ablate.execution.base import Job, Resources
from ablate.spaces.specs import TrialSpec
from ablate.storage.files import Files
from ablate.storage.speeds import Kind, StreamKind, kind_of, known_streams, mode_of, stream_kind_of

WORTH = 1.1
"""Packing has to pay: twice as many at once, at least so many times the images per second of all together."""

# Where `ablate.bench --what packing` was not run with this storage. Small networks at CIFAR's size leave a GPU idle;
# WRN-34-10, and whatever a user brings, gets a whole one.
_UNMEASURED = {"resnet20": 0.25, "mobilenet_v2": 0.5, "efficientnet_b0": 0.5}


Packing = Mapping[Kind, Mapping[int, Mapping[int, float]]]
"""Of `known_packing`."""


def gpus_of(job: Job, packing: Packing | None, otherwise: float) -> float:
    """The GPUs that a job gets.

    Args:
        job: What ran out of memory in its part of one gets a whole one.
        packing: With `--gpus-per-trial auto` what was measured, as of `gpu_share`; None: as asked for.
        otherwise: GPUs of a training as asked for; 0 without any.

    Returns:
        Those of its trainings together, where several share its process, but no second GPU: a process uses one.
    """
    if otherwise and job.whole_gpu:
        return max(1.0, otherwise)
    if packing is None:
        return otherwise if len(job.tasks) == 1 else min(1.0, len(job.tasks) * otherwise)
    # How many share a process well was measured with the whole GPU.
    return 1.0 if len(job.tasks) > 1 else gpu_share(job.tasks[0].spec, packing)


def gpu_share(spec: TrialSpec, packing: Packing) -> float:
    """The part of a GPU that a training gets with `--gpus-per-trial auto`.

    Args:
        spec: Its network, precision, compilation and batch size decide.
        packing: What `ablate.bench` measured, from `known_packing`.

    Returns:
        1, 1/2 or 1/4: of the measured counts the largest that still paid, in batches of at least as many images where
        there are such: smaller ones leave more of a GPU idle.
    """
    measured = packing.get(kind_of(spec.model, spec.training))
    if not measured:
        return _UNMEASURED.get(spec.model.arch, 1.0)
    batch = min((size for size in measured if size >= spec.training.batch_size), default=max(measured))
    return 1.0 / _that_paid(measured[batch])


def _that_paid(measured: Mapping[int, float]) -> int:
    """Of counts and what so many did together the largest that still paid."""
    best = 1
    for count in sorted(measured):
        if count > best and measured[count] >= WORTH * measured.get(best, 0.0):
            best = count
    return best


class GroupSizer:
    """How many trainings share a process, by what a launch asks for: the size of a job's group.

    Args:
        resources: What is asked for.
        files: Of the storage, where the measured table is kept.
        gpus: Of what runs the jobs; 0: trainings that share a CPU's process gain nothing.
        note: Told, once, what a user should know.
    """

    def __init__(self, resources: Resources, files: Files, gpus: int, note: Callable[[str], None]) -> None:
        asked = resources.per_process
        if asked is None:
            asked = "auto" if resources.gpus == "auto" else 1
        self._measured: Mapping[StreamKind, Mapping[int, float]] = {}
        if asked == "auto" and gpus:
            self._measured = known_streams(files)
        self._asked = 1 if asked == "auto" and not gpus else asked
        # As many as there are trainings for each GPU: none is to be idle while others are shared. By the plan alone.
        self._most = max(1, math.ceil(resources.trainings / max(1, gpus)))
        if resources.max_concurrent:
            self._most = min(self._most, resources.max_concurrent)
        self._note = note
        self._noted = False

    @property
    def largest(self) -> int:
        """The most that any process may get."""
        counts = [count for rates in self._measured.values() for count in rates]
        return min(max(counts, default=1) if self._asked == "auto" else self._asked, self._most)

    def __call__(self, spec: TrialSpec) -> int:
        """See `ablate.execution.base.GroupSize`."""
        if self._asked != "auto":
            return min(self._asked, self._most)
        measured = self._measured.get(stream_kind_of(spec))
        if not measured:
            self._tell(spec)
            return 1
        return min(_that_paid(measured), self._most)

    def _tell(self, spec: TrialSpec) -> None:
        if not self._noted:
            self._noted = True
            quantization = spec.model.quantization
            network = spec.model.arch + (f":{quantization.bits}" if quantization.bits < 32 else "")
            self._note(
                "Each training has a process for itself: how many like the first share one well was never measured. "
                f"python -m ablate.bench --what streams --network {network}{':fat' if quantization.fat else ''} "
                f"--batch {spec.training.batch_size} --mode {mode_of(spec.training.precision, spec.training.compile)} "
                "--storage PLACE measures it."
            )
