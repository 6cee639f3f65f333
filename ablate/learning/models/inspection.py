"""Looking inside any network: its convolutions, and its first activation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.core.errors import SpecError
from ablate.core.modes import evaluating
from ablate.learning.models.quantization import QuantizedConv2d

_NORMALIZATIONS = (nn.BatchNorm2d, nn.SyncBatchNorm)


class _Reached(Exception):  # noqa: N818 (no error: it ends a forward early)
    def __init__(self, value: Tensor) -> None:
        self.value = value


def first_activation(network: nn.Module, images: Tensor) -> Tensor:
    """hardtanh(bn1(conv1(x))) in eval mode (Section 3.1.2), whatever the network's own activation is.

    conv1 is the first convolution that runs, bn1 the next batch normalization of its output's shape; where there is
    none, the convolution's own output is taken. Layers that come later do not run.

    Args:
        network: Any network with a convolution; its modes are left as they were. Not inside `torch.compile`'s
            reach: of a compiled network the original is run.
        images: [N, 3, H, W] float in [0, 1].

    Returns:
        [N, C, H', W'] in [-1, 1], detached.

    Raises:
        SpecError: No convolution runs.
    """
    network = _original(network)
    convolved: list[Tensor] = []

    def after_convolution(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if not convolved:
            # An activation that works in place, without BN between, would change the output.
            convolved.append(output.clone())

    def after_normalization(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if convolved and output.shape == convolved[0].shape:
            raise _Reached(output)

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, _NORMALIZATIONS):
            hooks.append(module.register_forward_hook(after_normalization))
    try:
        with torch.no_grad(), evaluating(network):
            network(images)
    except _Reached as reached:
        return F.hardtanh(reached.value)
    finally:
        for hook in hooks:
            hook.remove()
    if not convolved:
        raise SpecError(f"expected a network with an nn.Conv2d layer, got {type(network).__name__} without one")
    return F.hardtanh(convolved[0])


def named_convolutions(network: nn.Module, images: Tensor | None = None) -> list[tuple[str, nn.Conv2d]]:
    """The network's convolutions, shortcuts and squeeze layers included.

    Args:
        network: Any network.
        images: [N, 3, H, W]; with them the order is that of execution, and what does not run is left out.

    Returns:
        (dotted name, layer), in the order of definition, which in the networks of ablate is that of execution.
    """
    network = _original(network)
    named = {module: name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    if images is None:
        return [(name, module) for module, name in named.items()]
    order: dict[nn.Conv2d, None] = {}
    hooks = [module.register_forward_hook(lambda ran, *_: order.setdefault(ran)) for module in named]
    try:
        with torch.no_grad(), evaluating(network):
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [(named[module], module) for module in order]


def effective_weight(convolution: nn.Conv2d) -> Tensor:
    """The weights that a convolution uses, after masking and quantization if it has them.

    Returns:
        [out, in / groups, kh, kw], detached.
    """
    if isinstance(convolution, QuantizedConv2d):
        with torch.no_grad():
            return convolution.effective_weight().detach()
    return convolution.weight.detach()


def is_quantized(convolution: nn.Conv2d) -> bool:
    """Whether a convolution's weights are transformed: masked, quantized or standardized."""
    return isinstance(convolution, QuantizedConv2d)


def _original(network: nn.Module) -> nn.Module:
    original = getattr(network, "_orig_mod", network)
    assert isinstance(original, nn.Module)
    return original
