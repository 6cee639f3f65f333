"""What a machine is and could do: its name, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import torch

from ablate.core.text import plural

_CPU_SIZE, _GPU_SIZE = 2048, 8192
_MATMUL_S = 0.5


def device_name(device: torch.device) -> str:
    """The device in words.

    Args:
        device: CPU or CUDA.

    Returns:
        E.g. `AMD EPYC 9B14, 2 threads` or `NVIDIA H100 80GB HBM3`.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux
    threads = torch.get_num_threads()
    return f"{name}, {plural(threads, 'thread')} of {os.cpu_count()} cores"


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = _MATMUL_S) -> float:
    """The best rate of a large square matrix product: the arithmetic this machine has to give.

    Args:
        device: Where.
        dtype: Of the factors; float32 without TF32, as in measuring.
        seconds: About how long to try.

    Returns:
        Floating-point operations per second.
    """
    size = _GPU_SIZE if device.type == "cuda" else _CPU_SIZE
    first = torch.rand(size, size, device=device).to(dtype)
    second = torch.rand(size, size, device=device).to(dtype)
    best, began = 0.0, time.perf_counter()
    torch.mm(first, second)
    while time.perf_counter() - began < seconds or best == 0.0:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        torch.mm(first, second)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    return best
