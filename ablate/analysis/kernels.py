"""What kernels look like (Figures 3, 4 and 8), of any network: arrays to draw, and numbers for what the eye sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ablate.analysis.registry import AnalysisContext, AnalysisResult, register_analysis
from ablate.analysis.spectrum import channel_similarity, high_frequency_share, kernel_smoothness, kernel_spectrum
from ablate.analysis.weights import effective_weight, first_quantized, running_convolutions, stage_convolutions

MOST_FILTERS = 64
"""Filters (and input channels) that are kept for drawing, from the first; the numbers are of all."""


@register_analysis("first_kernels", scalars=("first_kernels/smoothness", "first_kernels/channel_similarity"))
def first_kernels(context: AnalysisContext) -> AnalysisResult:
    """Figure 3: the first convolution's kernels, how smooth they are and how alike across the input channels.

    Args:
        context: Only the network is looked at, and one image finds the order of its layers.

    Returns:
        Arrays `kernels` [filters, channels, kh, kw] and `layer`; `first_kernels/smoothness`, and
        `first_kernels/channel_similarity` where kernels see two channels at least. Nothing without a convolution.

    Source: Section 3.1.2.
    """
    convolutions = running_convolutions(context.network, _probe(context))
    if not convolutions:
        return AnalysisResult()
    name, layer, _ = convolutions[0]
    weight = effective_weight(layer)
    scalars = {"smoothness": kernel_smoothness(weight)}
    if weight.shape[1] > 1:
        scalars["channel_similarity"] = channel_similarity(weight)
    return _result("first_kernels", scalars, {"kernels": _shown(weight), "layer": np.array(name)})


@register_analysis(
    "kernel_spectra",
    scalars=[
        f"kernel_spectra/{what}{group}" for what in ("high_frequency_share", "smoothness") for group in ("", "_group*")
    ],
)
def kernel_spectra(context: AnalysisContext) -> AnalysisResult:
    """Figure 4: the spectra of the first convolution of all (`group0`) and of each stage behind it (`group1`, ...).

    Args:
        context: Only the network is looked at, and one image finds the order of its layers.

    Returns:
        Arrays `group<i>` [filters, in * kh * kw], amplitudes, low frequencies at both ends, and `layers`;
        `kernel_spectra/high_frequency_share_group<i>`, `kernel_spectra/smoothness_group<i>` (no 1 x 1 kernels), and
        both means over the groups without the number. Nothing without a convolution.

    Source: Section 3.1.2.
    """
    scalars: dict[str, Tensor] = {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    shares, smoothnesses, names = [], [], []
    for group, (name, layer) in enumerate(stage_convolutions(context.network, _probe(context))):
        weight = effective_weight(layer)
        arrays[f"group{group}"] = kernel_spectrum(weight)[:MOST_FILTERS].numpy()
        shares.append(high_frequency_share(weight))
        scalars[f"high_frequency_share_group{group}"] = shares[-1]
        if weight[0, 0].numel() > 1:
            smoothnesses.append(kernel_smoothness(weight))
            scalars[f"smoothness_group{group}"] = smoothnesses[-1]
        names.append(name)
    if not names:
        return AnalysisResult()
    scalars["high_frequency_share"] = sum(shares[1:], shares[0]) / len(shares)
    if smoothnesses:
        scalars["smoothness"] = sum(smoothnesses[1:], smoothnesses[0]) / len(smoothnesses)
    return _result("kernel_spectra", scalars, {**arrays, "layers": np.array(names)})


@register_analysis("quantized_kernels", scalars=("quantized_kernels/smoothness",))
def quantized_kernels(context: AnalysisContext) -> AnalysisResult:
    """Figure 8: the kernels that the first quantized layer uses, after mask and quantizer, and how smooth they are.

    Args:
        context: Only the network is looked at, and one image finds the order of its layers.

    Returns:
        Arrays `kernels` [filters, in, kh, kw] and `layer`; `quantized_kernels/smoothness`. Of a network in full
        precision, the same layer's. Nothing for a network of fewer than two convolutions.

    Source: Section 3.3.2.
    """
    found = first_quantized(context.network, _probe(context))
    if found is None:
        return AnalysisResult()
    name, layer = found
    weight = effective_weight(layer)
    scalars = {"smoothness": kernel_smoothness(weight)}
    return _result("quantized_kernels", scalars, {"kernels": _shown(weight), "layer": np.array(name)})


def _probe(context: AnalysisContext) -> Tensor:
    return context.images[:1].float() / 255.0


def _shown(weight: Tensor) -> np.ndarray[Any, Any]:
    return weight[:MOST_FILTERS, :MOST_FILTERS].numpy()


def _result(name: str, scalars: Mapping[str, Tensor], arrays: dict[str, np.ndarray[Any, Any]]) -> AnalysisResult:
    return AnalysisResult({f"{name}/{what}": float(value) for what, value in scalars.items()}, arrays)
