"""Several trainings on one device at once: what they do together, and what memory each needs."""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from ablate.core.memory import ran_out_of_memory
from ablate.core.text import named_line
from ablate.spaces.specs import ModelSpec

COUNTS = (1, 2, 4)
WINDOW_S = 8.0
"""How long the packed trainings run side by side."""


class PackingError(Exception):
    """One of the packed trainings did not get through, mostly for want of memory; the message says why."""


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

    def line(self) -> str:
        """A row of the table."""
        what = f"{self.label:<24} {self.batch_size:>5} {self.count:>7}"
        return f"{what} {self.images_per_second:>13,.1f} {self.peak_bytes / 2**20:>8,.0f} MiB"


HEAD = f"{'network':<24} {'batch':>5} {'at once':>7} {'images/s, all':>13} {'memory each':>12}"


def time_packed(
    model: ModelSpec, batch_size: int, count: int, mode: str, device: torch.device, window_s: float = WINDOW_S
) -> Packed:
    """Train in `count` processes at once; on a CPU each gets its share of the cores.

    Args:
        model: The network of each.
        batch_size: Of each.
        count: How many processes.
        mode: Of `ablate.bench.cases.MODES`.
        device: Shared by all.
        window_s: Seconds that they run side by side, one step at least.

    Returns:
        What they did while all of them ran.

    Raises:
        PackingError: One of them ended early.
    """
    from ablate.bench.cases import Case

    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    barrier = context.Barrier(count)
    results = context.Queue()
    threads = max(1, (os.cpu_count() or 1) // count)
    settings = (model.model_dump(mode="json"), batch_size, mode, device.type, threads, window_s, barrier)
    processes = [context.Process(target=_train, args=(results, *settings), daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        found = gather(processes, results)
    finally:
        for process in processes:  # those that wait for one that failed
            process.kill()
            process.join()
    rate = sum(rate for rate, _ in found)
    label = Case(model, batch_size, "step").label
    peak = max(peak for _, peak in found)
    return Packed(label, model.model_dump(mode="json"), mode, batch_size, count, rate, peak)


def gather(processes: Sequence[BaseProcess], results: Any) -> list[tuple[float, float]]:
    """What each of several processes puts into a queue, however some of them end.

    Args:
        processes: Started; each puts one pair of numbers, or one line of why there is none.
        results: The queue.

    Returns:
        The pairs, in the order in which they came.

    Raises:
        PackingError: One put a line, or ended without a word.
    """
    found: list[tuple[float, float]] = []
    while len(found) < len(processes):
        ended = [process for process in processes if process.exitcode is not None]
        try:
            result = results.get(timeout=0.2)
        except queue.Empty:
            # Whoever had ended before the queue was looked at had put everything by then.
            if len(ended) > len(found):
                code = next((process.exitcode for process in ended if process.exitcode), 0)
                # The system kills whoever needs more memory than there is.
                why = "killed, mostly for want of memory" if code < 0 else f"ended with exit code {code}"
                raise PackingError(why) from None
            continue
        if isinstance(result, str):
            raise PackingError(result)
        found.append(result)
    return found


def _train(results: Any, *settings: Any) -> None:
    try:
        result: tuple[float, float] | str = _trained(*settings)
    except Exception as error:
        line = named_line(error)
        result = "out of memory" if ran_out_of_memory(error) else line
    results.put(result)


def _trained(
    model: dict[str, Any], batch_size: int, mode: str, device_type: str, threads: int, window_s: float, barrier: Any
) -> tuple[float, float]:
    import resource

    from ablate.bench.cases import training_step

    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False  # as in a worker
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
    while not steps or time.perf_counter() - began < window_s:
        step()
        wait()
        steps += 1
    rate = steps * batch_size / (time.perf_counter() - began)
    if device.type == "cuda":
        peak = float(torch.cuda.max_memory_reserved(device))
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return rate, peak
