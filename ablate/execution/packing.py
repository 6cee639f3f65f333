"""How many trainings share a GPU: a small network leaves most of one idle, for it waits for kernels to be launched."""

from __future__ import annotations

from collections.abc import Mapping

from ablate.execution.base import Job
from ablate.spaces.specs import TrialSpec
from ablate.storage.speeds import Kind, kind_of

WORTH = 1.1
"""Packing has to pay: twice as many at once, at least so many times the images per second of all together."""

# Where `ablate.bench --what packing` was not run with this storage. Small networks at CIFAR's size leave a GPU idle;
# WRN-34-10, and whatever a user brings, gets a whole one.
_UNMEASURED = {"resnet20": 0.25, "mobilenet_v2": 0.5, "efficientnet_b0": 0.5}


def gpus_of(job: Job, packing: Mapping[Kind, Mapping[int, float]] | None, otherwise: float) -> float:
    """The GPUs that a job gets.

    Args:
        job: What ran out of memory in its part of one gets a whole one.
        packing: With `--gpus-per-trial auto` what was measured, as of `gpu_share`; None: as asked for.
        otherwise: GPUs as asked for; 0 without any.
    """
    if otherwise and job.whole_gpu:
        return max(1.0, otherwise)
    return otherwise if packing is None else max(gpu_share(task.spec, packing) for task in job.tasks)


def gpu_share(spec: TrialSpec, packing: Mapping[Kind, Mapping[int, float]]) -> float:
    """The part of a GPU that a training gets with `--gpus-per-trial auto`.

    Args:
        spec: Its network, precision and compilation decide.
        packing: What `ablate.bench` measured, from `known_packing`.

    Returns:
        1, 1/2 or 1/4: of the measured counts the largest that still paid.
    """
    measured = packing.get(kind_of(spec.model, spec.training))
    if not measured:
        return _UNMEASURED.get(spec.model.arch, 1.0)
    best = 1
    for count in sorted(measured):
        if count > best and measured[count] >= WORTH * measured.get(best, 0.0):
            best = count
    return 1.0 / best
