"""Uniform quantization of weights and activations with learned scales (QM-n, Section 3.3.2; arXiv 1909.13144).

A quantized network is the plain one with its convolutions and activation modules swapped. The first convolution and
the last layer stay in full precision, and so do:

- squeeze-and-excitation gates, for no normalization follows there that would undo the weights' standardization, and a
  sigmoid of such values is always 0 or 1;
- residual sums and linear bottlenecks, which follow no activation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ablate.core.errors import SpecError
from ablate.learning.models.fat import FrequencyMask
from ablate.learning.models.rounding import quantize
from ablate.spaces.specs import QuantizationSpec

FULL_PRECISION = 32
WEIGHT_SCALE = 3.0
RELU_SCALE = 5.0
HARDTANH_SCALE = 1.0

_SMALLEST_STD = 1e-12


class WeightTransform(nn.Module):
    """What stands between a layer's parameter and the weights it uses: standardize, mask, quantize, each if asked.

    - standardize: (w - mean) / std over the layer, both detached (with `max_abs` only if FAT is there).
    - mask: `FrequencyMask`.
    - quantize: `quantize`, straight through, with a learned scale that starts at 3, or max |w| with `max_abs`.

    Args:
        spec: Which of them.
        filters: Output channels of the layer.
    """

    def __init__(self, spec: QuantizationSpec, filters: int) -> None:
        super().__init__()
        self.bits = spec.bits
        quantized = spec.bits < FULL_PRECISION
        self.standardized = spec.fat or spec.standardize_only or spec.weights == "standardized"
        self.mask = FrequencyMask(filters) if spec.fat else None
        self.scale: nn.Parameter | None = None
        if quantized and spec.weights == "standardized":
            self.scale = nn.Parameter(torch.tensor(WEIGHT_SCALE))

    def standardize(self, weight: Tensor) -> Tensor:
        """(w - mean) / std over all of the layer's weights, or the weights themselves where that is not asked.

        Args:
            weight: [out, in, h, w]; no gradient passes through mean and std.

        Returns:
            The same shape, around 0 with a standard deviation of 1.
        """
        if not self.standardized:
            return weight
        std, mean = torch.std_mean(weight.detach(), correction=1 if weight.numel() > 1 else 0)
        return (weight - mean) / std.clamp_min(_SMALLEST_STD)

    def forward(self, weight: Tensor) -> Tensor:
        """The weights that the layer uses.

        Args:
            weight: [filters, ...] float, the layer's parameter.

        Returns:
            As `weight`, also in memory format.
        """
        with torch.autocast(weight.device.type, enabled=False):
            result = self.standardize(weight)
            if self.mask is not None:
                result = self.mask(result)
            if self.bits < FULL_PRECISION:
                scale = result.detach().abs().amax() if self.scale is None else self.scale
                result = quantize(result, scale, self.bits, signed=True, stop=False)
        if weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last):
            result = result.contiguous(memory_format=torch.channels_last)
        return result


class _Kept(torch.autograd.Function):
    """Copies a tensor to a place in memory; gradients go to the tensor."""

    @staticmethod
    def forward(ctx: Any, place: Tensor, value: Tensor) -> Tensor:
        ctx.mark_dirty(place)
        return place.copy_(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


class QuantizedConv2d(nn.Conv2d):
    """A convolution whose weights go through a `WeightTransform`.

    Args:
        plain: The convolution to replace; its parameters are shared.
        spec: What the transform does.
    """

    transformed: Tensor | None

    def __init__(self, plain: nn.Conv2d, spec: QuantizationSpec) -> None:
        super().__init__(
            plain.in_channels,
            plain.out_channels,
            plain.kernel_size,  # type: ignore[arg-type]
            stride=plain.stride,  # type: ignore[arg-type]
            padding=plain.padding,  # type: ignore[arg-type]
            dilation=plain.dilation,  # type: ignore[arg-type]
            groups=plain.groups,
            bias=plain.bias is not None,
            padding_mode=plain.padding_mode,
            device="meta",
        )
        self.weight, self.bias = plain.weight, plain.bias
        self.transform = WeightTransform(spec, plain.out_channels).to(plain.weight.device)
        # Set by `transformed_weights`; an attribute rather than a buffer, for it is no state.
        self.transformed = None
        self._place: Tensor | None = None

    def keep(self, transformed: Tensor) -> Tensor:
        """The transformed weights, with their graph, at the same place in memory in every step.

        A captured CUDA graph reads them where they lay when it was captured; elsewhere it would be captured anew.
        """
        place, like = self._place, transformed
        if place is None or (place.shape, place.device, place.dtype) != (like.shape, like.device, like.dtype):
            self._place = place = torch.empty_like(transformed, requires_grad=False)
        kept: Tensor = _Kept.apply(place.detach(), transformed)
        return kept

    def effective_weight(self) -> Tensor:
        """[out, in / groups, kh, kw]: the transformed weights, computed unless `transformed_weights` did it."""
        if self.transformed is not None:
            return self.transformed
        transformed: Tensor = self.transform(self.weight)
        return transformed

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of [N, in, H, W] with the transformed weights."""
        result: Tensor = self._conv_forward(x, self.effective_weight(), self.bias)
        return result


class QuantizedActivation(nn.Module):
    """An activation followed by `quantize` with a learned scale.

    Signed levels after hardtanh, whose scale starts at 1; after any other they lie in [0, scale], the scale starts
    at 5, and the small negative values of a SiLU become 0. No gradient beyond the clip.

    Args:
        activation: The module to replace.
        bits: Bit width.
    """

    def __init__(self, activation: nn.Module, bits: int) -> None:
        super().__init__()
        self.activation = activation
        self.bits = bits
        self.rounds = True
        self.signed = isinstance(activation, nn.Hardtanh) and activation.min_val < 0  # ReLU6 is a Hardtanh, too
        self.scale = nn.Parameter(torch.tensor(HARDTANH_SCALE if self.signed else RELU_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape, the activation at most 2^bits levels: in [-scale, scale] where signed, else in [0, scale]."""
        if not self.rounds:
            return self.activation(x)  # type: ignore[no-any-return]
        return quantize(self.activation(x), self.scale, self.bits, signed=self.signed, stop=True)


def quantize_network(network: nn.Module, spec: QuantizationSpec) -> nn.Module:
    """Swap a network's convolutions and activations (ReLU, ReLU6, SiLU, Hardtanh modules) for quantized ones.

    Left in full precision: the first convolution and the last layer in the order of definition, linear layers,
    subclasses of `nn.Conv2d` (their forward is not known), functional activations, squeeze-and-excitation gates.
    Weights keep their values and `state_dict` names.

    Args:
        network: Changed in place.
        spec: 32 bits with neither FAT nor `standardize_only` change nothing.

    Raises:
        SpecError: There is nothing in the network to quantize.
    """
    activation_bits = spec.bits if spec.activation_bits is None else spec.activation_bits
    weights = spec.bits < FULL_PRECISION or spec.fat or spec.standardize_only
    activations = activation_bits < FULL_PRECISION
    if not weights and not activations:
        return network
    from torchvision.ops import SqueezeExcitation  # takes seconds, and planning needs none of it

    gates = [module for module in network.modules() if isinstance(module, SqueezeExcitation)]
    gated = {id(inner) for gate in gates for inner in gate.modules()}
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    first = next((layer for layer in layers if isinstance(layer, nn.Conv2d)), None)
    swaps: dict[int, nn.Module] = {}
    for module in network.modules():
        if id(module) in gated:
            continue
        if weights and type(module) is nn.Conv2d and module is not first and module is not layers[-1]:
            swaps[id(module)] = QuantizedConv2d(module, spec)
        elif activations and isinstance(module, (nn.ReLU, nn.Hardtanh, nn.SiLU)):
            swaps[id(module)] = QuantizedActivation(module, activation_bits)
    if not swaps:
        raise SpecError("expected nn.Conv2d or activation modules to quantize in the network, got none")
    for module in list(network.modules()):
        # named_children would name a module that is used twice only once.
        for name, child in list(module._modules.items()):
            if id(child) in swaps:
                setattr(module, name, swaps[id(child)])
    return network


@contextmanager
def transformed_weights(network: nn.Module) -> Iterator[None]:
    """Transform every layer's weights once, on entry; every forward inside uses the result.

    The results carry their autograd graph, so that a loss inside reaches the parameters, the scales and the masks.
    The graph is used up by one `backward`, which belongs inside; the optimizer's step belongs after it, for what it
    changes is not seen before the next entry. Around an attack inside, `frozen_parameters` leaves out the graph:

        with transformed_weights(network):
            with frozen_parameters(network):
                adversarial = attack(network, images, labels)
            cross_entropy(network(adversarial), labels).backward()
        optimizer.step()

    Does nothing to a network in full precision. The network may be the result of `torch.compile`.

    Args:
        network: From `quantize_network`, or any.
    """
    layers = _quantized(network)
    before = [layer.transformed for layer in layers]
    try:
        for layer in layers:
            layer.transformed = layer.keep(layer.transform(layer.weight))
        yield
    finally:
        for layer, weight in zip(layers, before, strict=True):
            layer.transformed = weight


@contextmanager
def frozen_parameters(network: nn.Module) -> Iterator[None]:
    """Inside, no forward builds a graph to the parameters; gradients to the images are what they were.

    Transformed weights are computed once, or taken from `transformed_weights` outside. This is for attacks, in
    training and in measurement. A compiled network has one graph for inside, which computes no gradients of weights,
    and one for outside.

    Args:
        network: Any network; its parameters must not change inside.
    """
    layers = _quantized(network)
    before = [layer.transformed for layer in layers]
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        with torch.no_grad():
            for layer in layers:
                layer.transformed = layer.effective_weight().detach()
        for parameter in learned:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
        for layer, weight in zip(layers, before, strict=True):
            layer.transformed = weight


def has_quantized_activations(network: nn.Module) -> bool:
    """Whether a network rounds its activations, which makes steps of the smallest differences."""
    return any(isinstance(module, QuantizedActivation) for module in network.modules())


@contextmanager
def unrounded_activations(network: nn.Module) -> Iterator[None]:
    """Inside, quantized activations are their plain ones, so that outputs hang smoothly on everything before.

    Args:
        network: From `quantize_network`, or any.
    """
    changed = [module for module in network.modules() if isinstance(module, QuantizedActivation) and module.rounds]
    try:
        for module in changed:
            module.rounds = False
        yield
    finally:
        for module in changed:
            module.rounds = True


@torch.no_grad()
def mask_statistics(network: nn.Module) -> dict[str, float]:
    """How open FAT's masks are: a mean near 1 is a saturated mask, which does nothing.

    Returns:
        `fat/mask_min` and `fat/mask_mean` over all frequencies of all filters of all layers; empty without FAT.
    """
    masks = [
        layer.transform.mask.mask(layer.transform.standardize(layer.weight)).flatten()
        for layer in _quantized(network)
        if layer.transform.mask is not None
    ]
    if not masks:
        return {}
    everything = torch.cat(masks)
    return {"fat/mask_min": everything.min().item(), "fat/mask_mean": everything.mean().item()}


def _quantized(network: nn.Module) -> list[QuantizedConv2d]:
    return [module for module in network.modules() if isinstance(module, QuantizedConv2d)]
