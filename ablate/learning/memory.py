"""Telling what ran out of memory from what is broken."""

from __future__ import annotations

import re

import torch


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error says that a device has too little memory.

    Args:
        error: Any. What graphs and the handles of cuBLAS and cuDNN lack, torch tells in other classes than its own.

    Returns:
        Whether more memory would have helped.
    """
    known = re.search(r"out of memory|_ALLOC_FAILED", str(error)) is not None
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and known)
