"""A convolution with the sum and the activation after it as one operation of a CPU, for attacks to search by.

In bfloat16 the convolutions of a small network are so fast on a CPU that reading and writing activations once more, for
a residual sum and a ReLU, takes as long again. oneDNN does both as it writes a convolution's result:

    y = relu(conv(x) + residual),    with the sum in float32 before it is rounded.

Only what judges nothing asks it: rounding once where torch rounds twice changes last bits, and what is not a number
comes out as 0.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable


class FusedConv2d(nn.Module):
    """relu(conv(x) + residual), with or without a residual; the parts one by one where they cannot be fused.

    Args:
        conv: A convolution with a bias and zeros around its images, whose weights want no gradient.
    """

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, residual: Tensor | float | None = None) -> Tensor:
        """[N, in, H, W] and [N, out, H', W'] to [N, out, H', W'], at least 0; a residual may be what a sum takes."""
        if self._fits(x, residual):
            layout = torch.channels_last
            added = residual.contiguous(memory_format=layout) if isinstance(residual, Tensor) else None
            try:
                result: Tensor = _ConvAddRelu.apply(x.to(torch.bfloat16, memory_format=layout), added, self.conv)
                return result
            except RuntimeError:  # it has conditions of its own: images of one pixel, for example, it does not take
                pass
        made = self.conv(x)
        return F.relu(made if residual is None else made + residual)

    def _fits(self, x: Tensor, residual: Tensor | float | None) -> bool:
        if x.device.type != "cpu" or self.conv.weight.dtype != torch.bfloat16 or x.dim() != 4 or not x.numel():
            return False
        if residual is not None and not (
            isinstance(residual, Tensor) and residual.dtype == torch.bfloat16 and residual.shape == self._shape(x)
        ):
            return False
        return not torch.compiler.is_compiling() and can_fuse()

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        """Of the result."""
        conv = self.conv
        each = zip(x.shape[2:], conv.weight.shape[2:], conv.padding, conv.dilation, conv.stride, strict=True)
        sizes = ((size + 2 * pad - dil * (kernel - 1) - 1) // step + 1 for size, kernel, pad, dil, step in each)
        return len(x), len(conv.weight), *sizes


class _ConvAddRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, conv: Any) -> Tensor:
        made = conv_add_relu(x, residual, conv)
        ctx.save_for_backward(x, made)
        ctx.conv = conv
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, made = ctx.saved_tensors
        conv, (wants_x, wants_residual, _) = ctx.conv, ctx.needs_input_grad
        gradient = torch.ops.aten.threshold_backward(gradient, made, 0.0)
        before = None
        if wants_x:
            how = (conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups, (True, False, False))
            before = torch.ops.aten.convolution_backward(gradient, x, conv.weight, None, *how)[0]
        return before, gradient if wants_residual else None, None


def conv_add_relu(x: Tensor, residual: Tensor | None, conv: Any) -> Tensor:
    """The fused operation itself, without a gradient: [N, in, H, W] and [N, out, H', W'] to [N, out, H', W']."""
    kernel = torch.ops.mkldnn._convolution_pointwise
    where = (conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups)
    if residual is None:
        made: Tensor = kernel(x, *where, "relu", [], "")
    else:
        made = kernel.binary(x, residual, *where, "add", 1.0, "relu", [], "")
    return made


@functools.cache
def can_fuse() -> bool:
    """Whether this torch and this CPU have the fused operation, and it says what its parts say."""
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        made = torch.randn(shape, generator=generator).to(torch.bfloat16)
        return made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made

    conv = nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False)
    conv.weight, conv.bias = nn.Parameter(some(16, 16, 3, 3) / 12, False), nn.Parameter(some(16), False)
    x, residual = some(2, 16, 8, 8), some(2, 16, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        made = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
        try:
            for each, sum_ in ((None, made), (residual, made + residual)):
                if not torch.allclose(conv_add_relu(x, each, conv).double(), F.relu(sum_), rtol=1e-2, atol=1e-3):
                    return False
        except Exception:  # an operation that is torch's own business: without it the parts are asked one by one
            return False
    return True


def fuse(graph: fx.Graph, modules: dict[str, Any], convolution: type[nn.Module], add: object) -> None:
    """Replace conv, sum and ReLU of a folded graph by one module, wherever nothing else looks at what lies between.

    Args:
        graph: Changed.
        modules: What its nodes name; the new ones are added.
        convolution: The kind that is fused, where it has one group and its padding is in pixels.
        add: What a node of a residual sum calls.
    """
    for relu in list(graph.nodes):
        if relu.op != "call_module" or type(modules.get(relu.target)) is not nn.ReLU:
            continue
        last = relu.args[0]
        before, residual = last, None
        if last.op == "call_function" and last.target is add and len(last.users) == 1:
            before, residual = last.args
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        conv = modules.get(str(before.target))
        if not isinstance(conv, convolution) or isinstance(conv.padding, str) or conv.groups != 1:
            continue
        if residual is before or (residual is not None and not isinstance(residual, fx.Node)):
            continue
        name = f"fused_{len(modules)}"
        modules[name] = FusedConv2d(conv)
        # Where the sum was, not the ReLU: what lies between them may write into what the sum reads.
        with graph.inserting_before(last):
            fused = graph.call_module(name, (*before.args, *([] if residual is None else [residual])))
        relu.replace_all_uses_with(fused)
        for unused in dict.fromkeys((relu, last, before)):
            graph.erase_node(unused)
