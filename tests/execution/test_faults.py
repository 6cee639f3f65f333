"""What passes leaves a training interrupted, and the same command goes on; what would come again is a failure."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions
import torch

from ablate.core.errors import DataError, DeviceError, LeaseError, StorageError
from ablate.execution import worker
from ablate.execution.faults import fault_of, passes
from ablate.learning.state import TrainingError
from ablate.storage.files import LocalFiles
from ablate.storage.storage import Storage
from tests.support.helpers import launch_here, numbers, options_of, write_space


def from_(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


OF_A_GPU = [
    DeviceError("expected a GPU that works"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle )`"),
    RuntimeError("cuFFT error: CUFFT_EXEC_FAILED"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("Triton Error [CUDA]: unspecified launch failure"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("HIP error: unspecified launch failure"),
]
PASSING = [
    *OF_A_GPU,
    StorageError("--storage s3://b: expected x to be writable, got ExpiredToken"),
    LeaseError("another launch has taken this training over"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.EMFILE, "Too many open files"),
    RuntimeError("InductorError: OSError: [Errno 28] No space left on device: '/tmp/torchinductor'"),
    ConnectionResetError("Connection reset by peer"),
    TimeoutError("timed out"),
    from_(RuntimeError("the images cannot be read"), OSError(errno.EIO, "Input/output error")),
    ray.exceptions.NodeDiedError("the node died"),
    ray.exceptions.WorkerCrashedError(),
]
COMING_AGAIN = [
    TrainingError("loss became nan in epoch 3"),
    from_(TrainingError("loss became nan in epoch 3"), TimeoutError("timed out")),
    RuntimeError("the device fell off the bus"),
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm( handle )`"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ValueError("No space left on device"),
    FileNotFoundError(errno.ENOENT, "No such file or directory"),
    PermissionError(errno.EACCES, "Permission denied"),
    DataError("expected images, got none"),
    ZeroDivisionError("division by zero"),
    ModuleNotFoundError("No module named 'mine'"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_passes_leaves_a_training_interrupted(error: Exception) -> None:
    assert passes(error)


@pytest.mark.parametrize("error", COMING_AGAIN, ids=repr)
def test_what_would_come_again_is_a_failure(error: Exception) -> None:
    assert not passes(error)


def test_what_a_gpu_broke_ends_its_process_and_nothing_else_does() -> None:
    assert [error for error in [*PASSING, *COMING_AGAIN] if fault_of(error).spoils_process] == OF_A_GPU


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of an undisturbed launch."""
    folder = tmp_path_factory.mktemp("whole")
    write_space(folder, attacks="natural, gn, fgsm")
    assert launch_here(options_of(folder))[0] == 0
    return numbers(folder / "storage")


class Refusing:
    """Local files that refuse one kind of call, once something has happened, until they are let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, name: str) -> None:
        self.refusing = True
        self.refused = 0
        original: Callable[..., Any] = getattr(LocalFiles, method)

        def refuse(files: LocalFiles, path: str, *rest: Any) -> Any:
            if self.refusing and name in path:
                self.refused += 1
                raise StorageError(f"--storage {files.location}: expected {path} to be usable, got ExpiredToken")
            return original(files, path, *rest)

        monkeypatch.setattr(LocalFiles, method, refuse)


@pytest.mark.parametrize(
    ("method", "name"), [("write", "checkpoint-000002-"), ("write", "manifest-000003"), ("write", "record-")]
)
@pytest.mark.slow
def test_storage_that_refuses_for_a_while_costs_no_retry_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any], method: str, name: str
) -> None:
    write_space(tmp_path, attacks="natural, gn, fgsm")
    storage = Refusing(monkeypatch, method, name)
    code, text = launch_here(options_of(tmp_path))
    assert code == 1 and storage.refused and "ExpiredToken" in text
    assert "interrupted" in text and "the same command goes on" in text
    assert "--retry-failed" not in text and " failed" not in text
    opened = Storage(str(tmp_path / "storage"))
    assert all(opened.view(key).failure is None for key in opened.keys())  # noqa: SIM118 - a method of ours
    storage.refusing = False
    code, text = launch_here(options_of(tmp_path))
    assert code == 0, text
    assert numbers(tmp_path / "storage") == whole


@pytest.mark.parametrize("error", [OF_A_GPU[2], COMING_AGAIN[2]], ids=repr)
def test_a_launch_keeps_to_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    write_space(tmp_path, epochs=1, attacks="natural, gn, fgsm")

    def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(worker, "train_in_turns", broken)
    opened = Storage(str(tmp_path / "storage"))
    if fault_of(error).spoils_process:
        with pytest.raises(DeviceError, match="the same command goes on"):
            launch_here(options_of(tmp_path))
    else:
        assert launch_here(options_of(tmp_path))[0] == 1
    stored = [opened.view(key).failure is not None for key in opened.keys()]  # noqa: SIM118 - a method of ours
    assert stored == [not passes(error)] * 2
    monkeypatch.undo()
    assert launch_here(options_of(tmp_path))[0] == (0 if passes(error) else 1)
    assert launch_here(options_of(tmp_path, retry_failed=True))[0] == 0
