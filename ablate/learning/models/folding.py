"""Batch normalization folded into the convolution before it: the same function in evaluation mode, at less cost.

An attack in evaluation mode asks the network dozens of times with the same weights. There BN(conv(x)) is one affine map
of x, so one convolution with other weights does both, and the activation after it needs no copy of its input:

    w' = w * gamma / sqrt(var + eps),    b' = beta + (b - mean) * gamma / sqrt(var + eps)

Outputs agree with the network's up to rounding.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ablate.core.modes import evaluating
from ablate.learning.models.calibration import estimating_anew
from ablate.learning.models.fused import fuse
from ablate.learning.models.quantization import (
    QuantizedActivation,
    QuantizedConv2d,
    has_quantized_activations,
    unrounded_activations,
)
from ablate.learning.precision import memory_format

_SAME = 1e-3
"""Difference of logits, relative to the largest, that is more than rounding makes and less than any mistake."""

_PROBE_IMAGES = 8

PART_FLOAT32, PART_BFLOAT16 = 64, 128
"""Images asked at once on a CPU: measured with ResNet-20 on 1 MiB of level-2 cache a core."""


class FoldedConv2d(nn.Module):
    """A convolution and the batch normalization after it as one convolution.

    With s = gamma / sqrt(var + eps) by output channel: weight s w, bias beta + s (b - mean).

    Args:
        conv: Read, never changed.
        norm: Read, never changed.
        dtype: Of the folded weights, which `_Refresh` fills.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype | None) -> None:
        super().__init__()
        # In a tuple they are no submodules: their parameters are the network's, and not counted here once more.
        self.parts = (conv, norm)
        self.register_buffer("weight", torch.empty_like(conv.weight, dtype=dtype))
        self.register_buffer("bias", torch.empty_like(conv.weight[:, 0, 0, 0], dtype=dtype))
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] to [N, out, H', W']."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class _Refresh:
    """Fills the weights of folded convolutions: what is one number a channel is computed for all of them at once."""

    def __init__(self, layers: Sequence[FoldedConv2d]) -> None:
        self._layers = layers
        self._sizes = [len(layer.bias) for layer in layers]
        parts = [layer.parts for layer in layers]
        like = [layer.parts[0].weight.new_zeros(len(layer.bias)) for layer in layers]
        self._eps = torch.cat([zero + norm.eps for zero, (_, norm) in zip(like, parts, strict=True)])
        # What a layer has not.
        self._zeros, self._ones = like, [zero + 1.0 for zero in like]
        # All biases lie in one piece of memory, so that they are written at once.
        self._bias = torch.empty(sum(self._sizes), dtype=layers[0].bias.dtype, device=self._eps.device)
        for layer, bias in zip(layers, torch.split(self._bias, self._sizes), strict=True):
            layer.bias = bias

    @torch.no_grad()
    def __call__(self) -> None:
        parts = [layer.parts for layer in self._layers]

        def together(have: Iterable[Tensor | None], instead: list[Tensor]) -> Tensor:
            return torch.cat([other if each is None else each for each, other in zip(have, instead, strict=True)])

        scale = torch.rsqrt(together((norm.running_var for _, norm in parts), self._ones) + self._eps)
        scale = scale * together((norm.weight for _, norm in parts), self._ones)
        centre = together((conv.bias for conv, _ in parts), self._zeros)
        centre = centre - together((norm.running_mean for _, norm in parts), self._zeros)
        # Into the same memory: graphs that a compiler captured read it there.
        torch.add(centre * scale, together((norm.bias for _, norm in parts), self._zeros), out=self._bias)
        for layer, (conv, _), factor in zip(self._layers, parts, torch.split(scale, self._sizes), strict=True):
            weight = conv.effective_weight() if isinstance(conv, QuantizedConv2d) else conv.weight
            torch.mul(weight, factor.view(-1, 1, 1, 1), out=layer.weight)


class FoldedNetwork(nn.Module):
    """A network's evaluation mode with folded batch normalizations, for as long as its weights stay.

    Made by `fold_normalization`. Layers that are not folded are the network's own: it has to be in evaluation mode.

    Args:
        network: What it stands for, in evaluation mode.
        dtype: Of the folded weights: that which autocast would cast them to at every use; None: the network's own.
        fused: Sums and activations, too, in one operation with the convolution before them (`FusedConv2d`).
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype | None = None, *, fused: bool = False) -> None:
        super().__init__()
        graph = _Tracer().trace(network)
        modules = dict(network.named_modules())
        targets: dict[str, Any] = {}
        folded: list[FoldedConv2d] = []
        for node in list(graph.nodes):
            if node.op == "get_attr":
                targets[node.target] = _attribute(network, node.target)
            if node.op == "call_function" and node.target in (operator.add, torch.add) and not node.kwargs:
                first = node.args[0]
                if _only_used_here(first) and isinstance(targets.get(str(first.target)), FoldedConv2d):
                    node.target = _add_into
            if node.op != "call_module":
                continue
            module, before = modules[node.target], node.args[0]
            if isinstance(module, nn.BatchNorm2d) and _only_used_here(before):
                conv = targets.get(before.target) if before.op == "call_module" else None
                if _folds(conv, module):
                    folded.append(FoldedConv2d(conv, module, dtype))
                    _retarget(before, folded[-1], targets)
                    node.replace_all_uses_with(before)
                    graph.erase_node(node)
                    continue
            targets[node.target] = module
            if isinstance(module, (nn.ReLU, nn.Hardtanh)) and _only_used_here(before) and _is_new(before, targets):
                in_place = copy.copy(module)
                in_place.inplace = True
                _retarget(node, in_place, targets)
        if fused:
            fuse(graph, targets, FoldedConv2d, _add_into)
        self._refresh = _Refresh(folded) if folded else None
        self.body = fx.GraphModule(targets, graph)
        self.refresh()

    def refresh(self) -> None:
        """Take over what the network's weights and averages are now."""
        if self._refresh is not None:
            self._refresh()

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] to logits."""
        logits: Tensor = self.body(x)
        return logits


def fold_normalization(
    network: nn.Module, image_size: int, dtype: torch.dtype | None = None, *, fused: bool = False
) -> FoldedNetwork | None:
    """A network's evaluation mode as a cheaper one, which attacks may ask instead.

    Args:
        network: On its device; quantized ones too. Left as it was found.
        image_size: Of the images it takes, in pixels.
        dtype: As of `FoldedNetwork`.
        fused: As of `FoldedNetwork`.

    Returns:
        The folded network; None where the network's code cannot be followed, or where the folded one does not say the
        same: then it has to be asked itself.
    """
    with evaluating(network):
        try:
            if not _says_the_same(copy.deepcopy(network), image_size, fused):
                return None
            return FoldedNetwork(network, dtype, fused=fused)
        except Exception:  # whatever a user's network does when it is traced or copied, it goes on without
            return None


@torch.no_grad()
def _says_the_same(network: nn.Module, image_size: int, fused: bool) -> bool:
    """Whether folding is right for this kind of network; changes its averages."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    probe = torch.rand(_PROBE_IMAGES, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device)
    # With averages that do not fit the weights, as before training, a deep network saturates and blows up last bits.
    with torch.random.fork_rng(devices=[]), estimating_anew(network):
        network(probe)
    network.eval()
    with unrounded_activations(network):  # rounding would turn a difference in the last bit into a whole level
        expected, told = network(probe), FoldedNetwork(network, fused=fused)(probe)
    if told.shape != expected.shape:
        return False
    return bool((told - expected).abs().max() <= _SAME * expected.abs().max().clamp_min(1.0))


class InParts(nn.Module):
    """A network in evaluation mode, asked about a few images at a time where their activations then fit the caches.

    On a CPU the activations of a large batch go through main memory with every layer; those of a few dozen images do
    not. In evaluation mode images do not know of each other, so the parts change nothing. A GPU gets all at once.

    Args:
        network: What is asked; compiled or captured as a graph after `compile_for`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._compiled_count = 0

    def compile_for(self, images: Tensor) -> None:
        """Compile the network for batches of as many images as these; others still ask it as it is."""
        self._compiled_count = min(len(images), _part(images) or len(images))
        self._compiled = torch.compile(self.network, dynamic=False)

    def refresh(self) -> None:
        """Take over what the network's weights and averages are now, where it is a folded one."""
        if isinstance(self.network, FoldedNetwork):
            self.network.refresh()

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] to logits."""
        part = _part(x)
        if part is None or len(x) <= part:
            return self._ask(x)
        return torch.cat([self._ask(some) for some in torch.split(x, part)])

    def _ask(self, x: Tensor) -> Tensor:
        if self._compiled is not None and len(x) == self._compiled_count:
            return self._compiled(x)
        logits: Tensor = self.network(x)
        return logits


def _part(images: Tensor) -> int | None:
    if images.device.type != "cpu":
        return None
    return PART_BFLOAT16 if torch.is_autocast_enabled("cpu") else PART_FLOAT32


def as_measured(network: nn.Module, image_size: int) -> InParts:
    """What a measurement attacks and judges: the folded network, so that both are the same to the last bit.

    A network with quantized activations is measured as it is: there a difference in the last bit can move an
    activation by a whole level, and the number would be that of another network than the one that was trained.

    Args:
        network: With the weights to measure, on its device.
        image_size: As in `fold_normalization`.

    Returns:
        The folded network, or the network itself; in parts.
    """
    folded = None if has_quantized_activations(network) else fold_normalization(network, image_size)
    return InParts(folded or network)


class InBfloat16(nn.Module):
    """A network whose convolutions compute in bfloat16 as `torch.autocast` has it, for attacks to search by.

    Args:
        network: In evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] to float32 logits."""
        x = x.contiguous(memory_format=memory_format(x.device, "bfloat16"))
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.network(x)
        return logits.float()


def as_searched(network: nn.Module, image_size: int, precision: str) -> nn.Module | None:
    """What attacks ask in place of `as_measured`.

    Args:
        network: As of `as_measured`.
        image_size: As in `fold_normalization`.
        precision: Of `measurement.precision`.

    Returns:
        The same function in bfloat16; None for float32: then it is the one that judges.
    """
    if precision == "float32":
        return None
    folded = None
    if not has_quantized_activations(network):
        on_cpu = all(parameter.device.type == "cpu" for parameter in network.parameters())
        folded = fold_normalization(network, image_size, torch.bfloat16, fused=on_cpu)
    return InBfloat16(InParts(_with_float32_layers(folded or network)))


def _with_float32_layers(network: nn.Module) -> nn.Module:
    """The same tensors in modules of their own, whose linear layers are left alone by autocast."""
    if isinstance(network, torch.jit.ScriptModule):
        return network
    copied = copy.copy(network)
    copied._modules = {
        name: None if child is None else _with_float32_layers(child) for name, child in network._modules.items()
    }
    if type(network) is nn.Linear:  # others may be asked for their weights alone, or compute otherwise
        copied.__class__ = _Float32Linear
    return copied


class _Float32Linear(nn.Linear):
    """A layer that autocast leaves alone: logits of 8 bits would hide from an attack what it gains at a step."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def _add_into(first: Tensor, second: Tensor | float) -> Tensor:
    """The sum, in the memory of the first where it fits: a residual connection otherwise takes new memory each time."""
    if isinstance(second, Tensor) and first.shape == second.shape and first.dtype == second.dtype:
        return first.add_(second)
    return first + second


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (nn.Conv2d, nn.Hardtanh, QuantizedActivation)) or super().is_leaf_module(
            m, module_qualified_name
        )


def _folds(conv: object, norm: nn.BatchNorm2d) -> TypeGuard[nn.Conv2d]:
    return type(conv) in (nn.Conv2d, QuantizedConv2d) and conv.padding_mode == "zeros" and norm.track_running_stats  # type: ignore[attr-defined]


def _only_used_here(node: object) -> bool:
    return isinstance(node, fx.Node) and len(node.users) == 1


def _is_new(node: fx.Node, targets: dict[str, Any]) -> bool:
    """Whether a node's result may be overwritten: memory of its own, which its own gradient does not look at."""
    if node.op == "call_module":
        return isinstance(targets[str(node.target)], (nn.Conv2d, FoldedConv2d, nn.BatchNorm2d))
    return node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add, _add_into)


def _retarget(node: fx.Node, module: nn.Module, targets: dict[str, Any]) -> None:
    name = f"made_{len(targets)}_{node.name}"
    targets[name] = module
    node.target = name


def _attribute(network: nn.Module, path: str) -> Any:
    return functools.reduce(getattr, path.split("."), network)
