"""Several trainings on one device at once: what they do together, and what memory each needs."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ablate.specs import ModelSpec

WINDOW_S = 8.0
"""How long the packed trainings run side by side."""


@dataclass(frozen=True)
class Packed:
    """What trainings packed on one device did.

    Args:
        label: The network in words.
        model: Its spec as plain data.
        mode: Precision and compilation.
        batch_size: Of each.
        count: How many at once.
        images_per_second: All of them together.
        peak_bytes: The most memory one of them needed: on a GPU what was reserved there, else the whole process.
    """

    label: str
    model: dict[str, Any]
    mode: str
    batch_size: int
    count: int
    images_per_second: float
    peak_bytes: float

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def time_packed(model: ModelSpec, batch_size: int, count: int, mode: str, device: torch.device) -> Packed:
    """Train in `count` processes at once; on a CPU each gets its share of the cores.

    Args:
        model: The network of each.
        batch_size: Of each.
        count: How many processes.
        mode: Of `ablate.speed.cases.MODES`.
        device: Shared by all.

    Returns:
        What they did while all of them ran.
    """
    from ablate.speed.cases import Case

    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    barrier = context.Barrier(count)
    results = context.Queue()
    threads = max(1, (os.cpu_count() or 1) // count)
    settings = (model.model_dump(mode="json"), batch_size, mode, device.type, threads)
    processes = [context.Process(target=_train, args=(*settings, barrier, results), daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    rate = sum(rate for rate, _ in found)
    label = Case(model, batch_size, "step").label
    peak = max(peak for _, peak in found)
    return Packed(label, model.model_dump(mode="json"), mode, batch_size, count, rate, peak)


def _train(
    model: dict[str, Any], batch_size: int, mode: str, device_type: str, threads: int, barrier: Any, results: Any
) -> None:
    import resource

    from ablate.speed.cases import training_step

    torch.set_num_threads(threads)
    device = torch.device(device_type)
    step = training_step(ModelSpec.model_validate(model), batch_size, mode, device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(2):  # compiles
        step()
    wait()
    barrier.wait()
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < WINDOW_S:
        step()
        wait()
        steps += 1
    rate = steps * batch_size / (time.perf_counter() - began)
    if device.type == "cuda":
        peak = float(torch.cuda.max_memory_reserved(device))
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    results.put((rate, peak))
