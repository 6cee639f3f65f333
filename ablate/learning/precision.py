"""How a precision wants its numbers laid out, and what it gains where."""

from __future__ import annotations

from collections.abc import Mapping

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


def slower_than_asked(precision: str, device: torch.device, of: str = "training") -> str | None:
    """Why a precision gains nothing on a device, in a line.

    Args:
        precision: Of `<of>.precision`.
        device: Where it is computed in.
        of: The section of the setting.

    Returns:
        None where it gains something, or where that is not known.
    """
    if device.type == "cuda":
        return without_tensor_cores(precision, torch.cuda.get_device_capability(device), of)
    if device.type == "cpu":
        get_capabilities = getattr(torch.cpu, "get_capabilities", dict)  # of later versions of torch
        return without_instructions(precision, get_capabilities(), of)
    return None


def without_tensor_cores(precision: str, capability: tuple[int, int], of: str = "training") -> str | None:
    """As `slower_than_asked`, of a GPU of a compute capability."""
    if precision == "float32" or capability >= (8, 0):
        return None
    how = "computes in float32" if precision == "tf32" else "emulates it slowly"
    asked = f"{of}.precision: {precision}"
    return f"{asked} wants a GPU of compute capability 8.0, got {capability[0]}.{capability[1]}, which {how}"


_IN_BFLOAT16 = {"x86_64": ("avx512_bf16", "amx_bf16"), "arm64": ("bf16", "sve_bf16")}
"""Instructions by architecture, by the names of `torch.cpu.get_capabilities`; one of them is enough."""


def without_instructions(precision: str, capabilities: Mapping[str, object], of: str = "training") -> str | None:
    """As `slower_than_asked`, of a CPU with capabilities as `torch.cpu.get_capabilities` names them."""
    wanted = _IN_BFLOAT16.get(str(capabilities.get("architecture")))
    if precision != "bfloat16" or wanted is None or any(capabilities.get(name) for name in wanted):
        return None
    names = " or ".join(wanted)
    return f"{of}.precision: bfloat16 wants a CPU with {names}, got one without, which emulates it slowly"
