"""Finding a network's convolutions in the order they run, their stages, and the weights they really use."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ablate.analysis.layers import collect_activations, original


def effective_weight(module: nn.Module) -> Tensor:
    """The weights a layer uses: what its `effective_weight()` returns, where it has one, else its parameter.

    Args:
        module: A convolution. One whose weights are masked or quantized on their way offers `effective_weight()`.

    Returns:
        [out, in / groups, kh, kw] float32 on the CPU, detached and contiguous.
    """
    with torch.no_grad():
        transformed = getattr(module, "effective_weight", None)
        weight = transformed() if callable(transformed) else module.weight
        assert isinstance(weight, Tensor)
        return weight.detach().to("cpu", torch.float32).contiguous()


def running_convolutions(network: nn.Module, images: Tensor) -> list[tuple[str, nn.Module, int]]:
    """The convolutions on the way from input to output, in the order in which they run.

    Args:
        network: Any network; left as it was found.
        images: [N, 3, H, W] float in [0, 1]; one is enough.

    Returns:
        (dotted name, layer, positions in its output), each layer once. Shortcuts and squeeze layers are left out.
    """
    modules = dict(original(network).named_modules())
    names, sizes = collect_activations(network, images, transform=lambda x: torch.tensor(x.shape[2:].numel()))
    return [
        (name, modules[name], int(size))
        for name, size in zip(names, sizes, strict=True)
        if isinstance(modules.get(name), _ConvNd)  # a layer's second run is called `name#2`
    ]


def stage_convolutions(network: nn.Module, images: Tensor) -> list[tuple[str, nn.Module]]:
    """The first convolution of all, and the first of each stage behind it.

    A stage ends where the feature maps become smaller than they ever were; in residual networks stages are the layer
    groups.

    Args:
        network: Any network.
        images: [N, 3, H, W] float in [0, 1].

    Returns:
        (dotted name, layer), in the order in which they run; empty for a network without convolutions.
    """
    convolutions = running_convolutions(network, images)
    found = [(name, layer) for name, layer, _ in convolutions[:1]]
    smallest = None
    for name, layer, positions in convolutions[1:]:
        if smallest is None or positions < smallest:
            found.append((name, layer))
            smallest = positions
    return found


def first_quantized(network: nn.Module, images: Tensor) -> tuple[str, nn.Module] | None:
    """The first convolution that quantization would change: not the first of all, which stays in full precision.

    Args:
        network: Quantized or not; both give the same layer.
        images: [N, 3, H, W] float in [0, 1].

    Returns:
        (dotted name, layer); None for a network of fewer than two convolutions.

    Source: Section 3.3.2, Figure 8.
    """
    later = [(name, layer) for name, layer, _ in running_convolutions(network, images)][1:]
    transformed = [(name, layer) for name, layer in later if callable(getattr(layer, "effective_weight", None))]
    return next(iter(transformed or later), None)
