"""What the residual networks share: their activation, widths, depths and initialisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ablate.core.errors import SpecError
from ablate.spaces.specs import ModelSpec


class _ClipByOutput(torch.autograd.Function):
    """clip(x, lower, upper), whose gradient is told by its result: 0 where that is a bound."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lower: float, upper: float) -> Tensor:
        clipped = x.clamp(lower, upper)
        ctx.save_for_backward(clipped)
        ctx.bounds = (lower, upper)
        return clipped

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (clipped,), (lower, upper) = ctx.saved_tensors, ctx.bounds
        return torch.where((clipped > lower) & (clipped < upper), gradients[0], 0.0), None, None


class Hardtanh(nn.Hardtanh):
    """clip(x, -1, 1), which compiles to code as fast as ReLU's.

    torch's own has its gradient from the input: compiled, it keeps a mask of one bool a value beside the result, which
    costs more to write and read than the convolutions around it (2.2 times a whole step on a CPU). The result is kept
    for the next convolution anyway, and tells as much.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Of any shape, min(max(x, -1), 1)."""
        if torch.compiler.is_compiling():
            clipped: Tensor = _ClipByOutput.apply(input, self.min_val, self.max_val)
            return clipped
        return super().forward(input)


class Normalized(nn.Module):
    """A network that takes images in [0, 1] and looks at (x - mean) / std.

    Args:
        network: What looks.
        mean: Of each channel.
        std: Of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        # Settings and no state: a checkpoint does without.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] to logits."""
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def activation_module(spec: ModelSpec) -> nn.Module:
    """A new module of the spec's non-linearity; each place has its own, which quantization gives its own scale."""
    return Hardtanh() if spec.activation == "hardtanh" else nn.ReLU()


def scaled_channels(count: int, spec: ModelSpec) -> int:
    """A layer's channels after the spec's width multiplier, at least one."""
    return max(1, round(count * spec.width))


def groups_of(
    block: Callable[..., nn.Module], spec: ModelSpec, inputs: int, channels: Sequence[int], blocks: int
) -> tuple[nn.Sequential, int]:
    """Groups of so many residual blocks each, which halve the image but for the first, and the channels of the last."""
    groups: list[nn.Module] = []
    for group, count in enumerate(channels):
        layers: list[nn.Module] = []
        outputs = scaled_channels(count, spec)
        for number in range(blocks):
            layers.append(block(spec, inputs, outputs, stride=2 if group > 0 and number == 0 else 1))
            inputs = outputs
        groups.append(nn.Sequential(*layers))
    return nn.Sequential(*groups), inputs


def blocks_per_group(spec: ModelSpec, default: int, outside: int, groups: int = 3) -> int:
    """Residual blocks n, of two layers each, in each group of a network of 2 groups n + `outside` layers.

    Args:
        spec: With the depth, or none for the default.
        default: The depth in the network's name.
        outside: Layers that belong to no block.
        groups: How many.

    Returns:
        n, at least 1.

    Raises:
        SpecError: No n gives this depth.
    """
    depth = default if spec.depth is None else spec.depth
    blocks, rest = divmod(depth - outside, 2 * groups)
    if rest or blocks < 1:
        raise SpecError(
            f"expected model.depth of {2 * groups} n + {outside} with model.arch {spec.arch!r}, got {depth}"
        )
    return blocks


def initialise(network: nn.Module) -> None:
    """Convolutions and linear layers by N(0, 2 / fan-out) and N(0, 1 / fan-in) (arXiv 1502.01852), biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
            nn.init.zeros_(module.bias)
