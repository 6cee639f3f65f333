"""What runs a queue: this process, or Ray."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from ablate.execution.base import Executor, Resources
from ablate.execution.local import LocalExecutor
from ablate.learning.data import Dataset
from ablate.storage.files import Files


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: end in order, keep everything."""


@contextlib.contextmanager
def open_executor(
    local: bool,
    resources: Resources,
    datasets: Mapping[str, Dataset],
    files: Files,
    imports: Sequence[str],
    note: Callable[[str], None],
) -> Iterator[Executor]:
    """The executor that a launch asked for; SIGTERM ends it as Ctrl-C does.

    Args:
        local: In this process, without Ray.
        resources: What the launch asks for.
        datasets: By name, all that jobs may need.
        files: Of the storage, where measured packing is kept.
        imports: The user's own modules, for workers.
        note: Told what a user should know.

    Yields:
        The executor.
    """
    if not isinstance(resources.gpus, str) and (resources.gpus or 0) > 1:
        note(f"A training uses one GPU: with --gpus-per-trial {resources.gpus:g} the others that it gets are idle.")
    if local:
        import torch

        with terminate_in_order():
            devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
            packed = resources.gpus == "auto" or 0 < (resources.gpus or 1) < 1
            if devices and resources.gpus != 0 and (len(devices) > 1 or packed):
                from ablate.execution.processes import ProcessExecutor

                yield ProcessExecutor(devices, resources, datasets, files, imports, note)
            else:
                yield LocalExecutor(resources, datasets, files, note)
        return
    from ablate.execution import cluster, tune

    with cluster.cluster(note=note):
        executor = tune.TuneExecutor(resources, datasets, files, imports, note)
        with terminate_in_order():  # after ray.init, which owns SIGTERM until then
            yield executor


@contextlib.contextmanager
def terminate_in_order() -> Iterator[None]:
    """SIGTERM (preemption) ends a launch as Ctrl-C does."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: a notebook's or a test's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
