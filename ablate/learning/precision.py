"""How a precision wants its numbers laid out, and what it gains where."""

from __future__ import annotations

import torch


def memory_format(device: torch.device, precision: str) -> torch.memory_format:
    """How activations lie in memory: cuDNN's IEEE float32 convolutions are made for contiguous ones, all else is not.

    Args:
        device: Where the network is.
        precision: Of `training.precision`, or of an attack's search (`measurement.precision`).

    Returns:
        For `Tensor.contiguous` and `Module.to`.
    """
    return torch.contiguous_format if device.type == "cuda" and precision == "float32" else torch.channels_last


def slower_than_asked(precision: str, capability: tuple[int, int], of: str = "training") -> str | None:
    """Why a precision gains nothing on a GPU of a compute capability, in a line; None where it does."""
    if precision == "float32" or capability >= (8, 0):
        return None
    how = "computes in float32" if precision == "tf32" else "emulates it slowly"
    asked = f"{of}.precision: {precision}"
    return f"{asked} wants a GPU of compute capability 8.0, got {capability[0]}.{capability[1]}, which {how}"
