"""Which faults pass and which would come again: the one table that tells interrupted trainings from failed ones.

A passing fault leaves a training *interrupted*: nothing is stored of it but a line of its log, and the same command
goes on from the last checkpoint. What would come again is a *failure*: stored, told, and tried again only with
`--retry-failed`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from ablate.core.errors import DeviceError, LeaseError, MeasurementError, StorageError
from ablate.core.memory import ran_out_of_memory
from ablate.learning.state import TrainingError

Ending = Literal["interrupted", "failed"]


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Args:
        name: What it is.
        ending: How it leaves the training.
        kinds: Classes of the errors it shows itself by, or the module that they all come from.
        words: Matches somewhere in the error's text; none: whatever it says.
        numbers: Those of an `OSError`; none: any.
        spoils_process: Nothing can be computed in this process any more.
    """

    name: str
    ending: Ending
    kinds: tuple[type[BaseException], ...] | str = ()
    words: re.Pattern[str] | None = None
    numbers: frozenset[int] | None = None
    spoils_process: bool = False

    def covers(self, error: BaseException) -> bool:
        """Whether an error is one of this kind."""
        if isinstance(self.kinds, str):  # of a library that a worker may lack
            return type(error).__module__ == self.kinds
        if not isinstance(error, self.kinds):
            return False
        if self.numbers is not None and getattr(error, "errno", None) not in self.numbers:
            return False
        return self.words is None or self.words.search(str(error)) is not None


_OUT_OF_MEMORY = Fault("out of memory", "failed")
_UNKNOWN = Fault("an error of the training's own", "failed")

_GPU = re.compile(
    r"CUDA (driver )?error|CUDA unknown error|cuda runtime error|CUDA_ERROR_|No CUDA GPUs are available|NVML_"
    r"|cuDNN error|CUDNN_STATUS_|CUBLAS_STATUS_|cuFFT error|CUFFT_|cusolver error|CUSOLVER_STATUS_|CUSPARSE_STATUS_"
    r"|CURAND_STATUS_|NCCL [Ee]rror|Triton Error \[|HIP (runtime )?error|hipError|HIPBLAS_STATUS_|ROCBLAS_STATUS_"
    r"|miopenStatus|Unable to find an engine to execute this computation",
)
_DISK = re.compile(r"No space left on device|[Dd]isk quota exceeded|Stale file handle|Input/output error")

FAULTS = (
    Fault("a loss or an output that is no number", "failed", (TrainingError, MeasurementError)),
    Fault("a lease that another launch took over", "interrupted", (LeaseError,)),
    Fault("storage that refused", "interrupted", (StorageError,)),
    # What libraries of a GPU say of shapes and settings that they never take.
    Fault(
        "a setting that a GPU's library does not take",
        "failed",
        (RuntimeError,),
        re.compile(r"_STATUS_(NOT_SUPPORTED|BAD_PARAM|INVALID_VALUE)"),
    ),
    Fault("a GPU that failed", "interrupted", (DeviceError, torch.AcceleratorError), spoils_process=True),
    Fault("a GPU that failed, told by a library", "interrupted", (RuntimeError,), _GPU, spoils_process=True),
    Fault("a disk that is full or away", "interrupted", (RuntimeError, OSError), _DISK),
    Fault(
        "a system that is out of something for now",
        "interrupted",
        (OSError,),
        numbers=frozenset(
            getattr(errno, name)
            for name in (
                *("ENOSPC", "EDQUOT", "EIO", "ESTALE", "EROFS", "ENODEV", "ENXIO", "EREMOTEIO", "EMFILE", "ENFILE"),
                *("EAGAIN", "EBUSY", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET"),
                *("ENOTCONN", "ENOBUFS", "ESHUTDOWN"),
            )
            if hasattr(errno, name)
        ),
    ),
    Fault("a connection that broke", "interrupted", (ConnectionError, TimeoutError)),
    Fault("a node, a worker or a connection that Ray lost", "interrupted", "ray.exceptions"),
)
"""The table; the first that covers an error, or one that it arose from, is its kind."""


def fault_of(error: BaseException) -> Fault:
    """The kind of an error.

    Args:
        error: As it was raised; what it arose from is looked at too, as libraries wrap what they meet.

    Returns:
        Its row of the table; an error that none covers is the training's own, and a failure.
    """
    for each in _chain(error):
        if isinstance(each, Exception) and ran_out_of_memory(each):
            return _OUT_OF_MEMORY
        for fault in FAULTS:
            if fault.covers(each):
                return fault
    return _UNKNOWN


def passes(error: BaseException) -> bool:
    """Whether an error leaves a training interrupted."""
    return fault_of(error).ending == "interrupted"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it arose from, the last first."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
