"""Finding the layers of any network, and what comes out of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ablate.core.modes import evaluating


def find_layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """All convolutions and linear layers, by type, whatever the network.

    Left out: shortcuts (named so, or 1 x 1 with a stride) and squeeze-and-excitation,
    which are no steps from input to output.

    Returns:
        (dotted name, module), in the order of definition.
    """
    network = original(network)
    modules = dict(network.named_modules())
    return [
        (name, module)
        for name, module in modules.items()
        if isinstance(module, _ConvNd | nn.Linear) and not _is_aside(name, modules)
    ]


def collect_activations(
    network: nn.Module,
    images: Tensor,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> tuple[list[str], list[Tensor]]:
    """What every convolution and linear layer gives for some images, in evaluation mode, without gradients.

    Args:
        network: Any module; left as it was found.
        images: [N, C, H, W] float in [0, 1].
        transform: Applied to each output as soon as it is there, so that only the result is kept, e.g.
            `similarity.gram`, with which a deep network's activations need not all fit into memory.

    Returns:
        The layers' names and their outputs, in the order of execution; a layer that runs twice is there twice, the
        second time as `name#2`.
    """
    network = original(network)
    names: list[str] = []
    outputs: list[Tensor] = []
    calls: dict[str, int] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            names.append(name if calls[name] == 1 else f"{name}#{calls[name]}")
            outputs.append(output.detach() if transform is None else transform(output.detach()))

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in find_layers(network)]
    try:
        with evaluating(network), torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return names, outputs


def original(network: nn.Module) -> nn.Module:
    """The module inside torch.compile's wrapper, whose compiled code would not run new hooks.

    Args:
        network: Any module, compiled or not.
    """
    inner = getattr(network, "_orig_mod", network)
    assert isinstance(inner, nn.Module)
    return inner


def _is_aside(name: str, modules: dict[str, nn.Module]) -> bool:
    module, lowered = modules[name], name.lower()
    if any(word in lowered for word in ("shortcut", "downsample", "skip")):
        return True
    if isinstance(module, _ConvNd) and max(module.kernel_size) == 1 and max(module.stride) > 1:
        return True
    parts = name.split(".")
    around = [type(modules[".".join(parts[:depth])]).__name__.lower().replace("_", "") for depth in range(len(parts))]
    named = {"se", "selayer", "semodule", "seblock"}
    return any("squeezeexc" in kind or kind in named for kind in around[1:]) or bool(
        named & set(lowered.split(".")[:-1])
    )
