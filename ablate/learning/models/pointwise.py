"""The weight gradient of a strided 1x1 convolution on a CPU, made right.

oneDNN's own, in torch 2.11 to 2.15 at least, writes past its workspace where such a convolution has fewer input
channels than its block, with more than one thread and images that do not split evenly between them
(github.com/uxlfoundation/oneDNN/issues/6035): a crash, wrong gradients, or a process that hangs. Narrow residual
networks have such shortcuts. The gradient of a 1x1 convolution looks only at the pixels that the stride visits, so
taking these out first and asking for the gradient of stride 1 is the same function, which oneDNN computes rightly.

It is done where torch computes gradients of convolutions, not in a layer: layers of a user's network, functional
convolutions, grouped, quantized, folded and compiled ones all come through there. Every other gradient, those of
full-width networks among them, is the one torch computes, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16
"""Input channels that oneDNN computes at once with AVX-512, its widest; with AVX2 it is 8."""

_OPERATOR = torch.ops.aten.convolution_backward.default
TORCHS_OWN = torch.library.get_kernel(_OPERATOR, "CPU")


def _visited(x: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """[N, C, ...] where a 1x1 convolution of this stride and padding looks at."""
    if any(padding):
        x = F.pad(x, [amount for size in reversed(padding) for amount in (size, size)])
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    for dimension, step in enumerate(stride, start=2):
        x = x[(slice(None),) * dimension + (slice(None, None, step),)]
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _convolution_backward(
    keys: torch._C.DispatchKeySet,
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """aten::convolution_backward on the CPU: gradients of the input, the weight and the bias, those that are wanted."""

    def torchs(
        x: Tensor, stride: Sequence[int], padding: Sequence[int], wanted: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        made: tuple[Tensor | None, Tensor | None, Tensor | None] = TORCHS_OWN.call_boxed(
            keys,
            grad_output,
            x,
            weight,
            bias_sizes,
            stride,
            padding,
            dilation,
            transposed,
            output_padding,
            groups,
            wanted,
        )
        return made

    shape, learned = weight.shape, wanted[1] or wanted[2]  # oneDNN makes both together, also where one is wanted
    if not learned or transposed or shape[1] >= BLOCK or max(stride) == 1 or any(size != 1 for size in shape[2:]):
        return torchs(x, stride, padding, wanted)
    dimensions = len(shape) - 2
    of_input = torchs(x, stride, padding, [True, False, False])[0] if wanted[0] else None
    seen = _visited(x, stride, padding)
    _, of_weight, of_bias = torchs(seen, [1] * dimensions, [0] * dimensions, [False, wanted[1], wanted[2]])
    return of_input, of_weight, of_bias


_LIBRARY = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
"""Holds the override for as long as this module is loaded."""

_LIBRARY.impl("convolution_backward", _convolution_backward, "CPU", with_keyset=True)  # type: ignore[no-untyped-call]
