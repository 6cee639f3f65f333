"""Analyses on PGD-20 examples: where their energy lies (Figure 2), and how layers see them (Figures 6 and 7)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ablate.analysis.registry import AnalysisContext, AnalysisResult, register_analysis
from ablate.analysis.similarity import MinibatchCKA, collect_activations, gram, shallow_deep_similarity
from ablate.analysis.spectrum import central_energy_share, log_amplitude, radial_profile

ANALYSED_IMAGES = 1024
"""Test images that are attacked, from the first; more would not change a digit that is shown."""

CKA_BATCH = 256
"""Examples in a minibatch of CKA: memory is [layers, 256, 256] whatever the network, and never more."""

FEWEST_EXAMPLES = 4
"""What the unbiased estimate of HSIC needs."""


@register_analysis("spectrum", scalars=("spectrum/central_energy_share",))
def spectrum(context: AnalysisContext) -> AnalysisResult:
    """Figure 2: spectra of the clean images, of their PGD-20 examples, and of the difference.

    Args:
        context: The first `ANALYSED_IMAGES` test images are attacked.

    Returns:
        Arrays `clean`, `adversarial`, `difference` [H, W]: mean log-amplitude, shifted, scaled to [0, 1]; and
        `profile`, the difference's power by distance from the middle, white noise 1. `spectrum/central_energy_share`:
        the part of the perturbation's energy in the central half-size square, in [0, 1], white noise 0.25.

    Source: Section 3.1.1.
    """
    places = torch.arange(min(ANALYSED_IMAGES, len(context.images)), device=context.images.device)
    clean = context.images[places].float() / 255.0
    adversarial = adversarial_of(context, places)
    difference = adversarial - clean
    arrays = {
        "clean": log_amplitude(clean),
        "adversarial": log_amplitude(adversarial),
        "difference": log_amplitude(difference),
        "profile": radial_profile(difference),
    }
    return AnalysisResult(
        {"spectrum/central_energy_share": float(central_energy_share(difference))},
        {name: array.cpu().numpy().astype(np.float32) for name, array in arrays.items()},
    )


@register_analysis("cka", scalars=("cka/shallow_deep",))
def cka(context: AnalysisContext) -> AnalysisResult:
    """Figures 6 and 7: linear CKA between all convolution and linear layers, on PGD-20 examples.

    Unbiased HSIC, averaged over equal minibatches before the ratio; shortcuts and squeeze layers are left out.

    Args:
        context: The first `ANALYSED_IMAGES` test images are attacked, in minibatches of `CKA_BATCH` (of all images,
            where there are fewer).

    Returns:
        Arrays `matrix` [layers, layers] and `layers`, their names in the order in which they run; `cka/shallow_deep`,
        the mean between the first and the last third, for three layers at least. Nothing for fewer than 4 images.

    Source: Sections 3.1.3 and 3.3.1; arXiv 2010.15327.
    """
    batch = min(CKA_BATCH, len(context.images))
    count = min(ANALYSED_IMAGES, len(context.images)) // batch if batch >= FEWEST_EXAMPLES else 0
    estimate, names = MinibatchCKA(), list[str]()
    for number in range(count):
        places = torch.arange(number * batch, (number + 1) * batch, device=context.images.device)
        names, grams = collect_activations(context.network, adversarial_of(context, places), transform=gram)
        if not names:
            break
        estimate.update(grams, grams=True)
    if estimate.batches == 0:
        return AnalysisResult()
    matrix = estimate.matrix().cpu()
    scalars = {"cka/shallow_deep": float(shallow_deep_similarity(matrix))} if len(names) >= 3 else {}
    return AnalysisResult(scalars, {"matrix": matrix.numpy().astype(np.float32), "layers": np.array(names)})


def adversarial_of(context: AnalysisContext, places: Tensor) -> Tensor:
    """The PGD-20 examples of the images at some places, made in batches.

    Args:
        context: Of the analysis.
        places: [M] int64.

    Returns:
        [M, 3, H, W] float in [0, 1].
    """
    return torch.cat([context.adversarial(part).detach() for part in torch.split(places, context.batch_size)])
