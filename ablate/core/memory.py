"""A GPU's memory: what of it a training may fill, and telling what ran out of it from what is broken."""

from __future__ import annotations

import re

import torch

_WITHIN_SHARE = 0.95
"""Of its share a training may fill: what libraries hold outside of torch's allocator comes on top."""

CONTEXT_BYTES = 0.5e9
"""What CUDA's own context takes of each process, however little it computes."""

_LEAST_SHARE = 1e-3


def share_to_fill(share: float, memory: float) -> float:
    """The part of a GPU's memory that torch may fill in a process.

    Args:
        share: The part that the process has, below 1.
        memory: All of it, in bytes.

    Returns:
        What is left beside the process's context; a share that holds no more than that is out of memory at once.
    """
    return max(_LEAST_SHARE, min(_WITHIN_SHARE * share, share - CONTEXT_BYTES / memory))


def device_memory(device: torch.device) -> float:
    """Bytes of a GPU."""
    return float(torch.cuda.get_device_properties(device).total_memory)


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error says that a device has too little memory.

    Args:
        error: Any. What graphs and the handles of cuBLAS and cuDNN lack, torch tells in other classes than its own.
    """
    known = re.search(r"out of memory|_ALLOC_FAILED", str(error)) is not None
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and known)
