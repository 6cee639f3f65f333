"""Where the gradient of the loss lies in the spectrum: what a first-order attacker would change about an image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ablate.analysis.examples import ANALYSED_IMAGES, adversarial_of
from ablate.analysis.registry import AnalysisContext, AnalysisResult, register_analysis
from ablate.analysis.spectrum import central_energy_share, mean_frequency, radial_profile
from ablate.core.errors import MeasurementError


def input_gradients(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """The gradient of each image's cross-entropy by its pixels, scaled to unit length: g / |g|_2, g = dl/dx.

    The length says how sure the network is, not where it looks: unscaled, the few images that it gets wrong would be
    the whole mean.

    Args:
        network: In evaluation mode; images to logits.
        images: [N, C, H, W] float in [0, 1].
        labels: [N] int64.
        batch_size: Images to work on at once.

    Returns:
        [M, C, H, W] float64, M <= N: images without any gradient are left out.

    Raises:
        MeasurementError: A gradient is not finite.
    """
    found = []
    for part, truth in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
        with torch.enable_grad():
            asked = part.detach().clone().requires_grad_()
            loss = torch.nn.functional.cross_entropy(network(asked).float(), truth, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, asked)
        found.append(gradient.double())
    gradients = torch.cat(found)
    if not bool(torch.isfinite(gradients).all()):
        raise MeasurementError("gradient_spectrum: expected finite gradients of the loss, got others")
    # Of a sure network they are so small that their squares would be 0.
    largest = gradients.abs().amax(dim=(1, 2, 3), keepdim=True)
    some = (largest > 0).flatten()
    scaled = gradients[some] / largest[some]
    norms: Tensor = torch.linalg.vector_norm(scaled, dim=(1, 2, 3), keepdim=True)
    return scaled / norms


@register_analysis(
    "gradient_spectrum",
    scalars=[
        f"gradient_spectrum/{what}{where}"
        for what in ("central_energy_share", "mean_frequency")
        for where in ("", "_adversarial")
    ],
)
def gradient_spectrum(context: AnalysisContext) -> AnalysisResult:
    """Radial profiles of the loss gradient, on clean images and on their PGD-20 examples.

    Args:
        context: The first `ANALYSED_IMAGES` test images are looked at.

    Returns:
        Arrays `clean` and `adversarial`: the gradient's power by distance from the zero frequency, white noise 1, every
        image's gradient scaled to unit length. `gradient_spectrum/mean_frequency`, in cycles per image, and
        `gradient_spectrum/central_energy_share`, the part inside the central half-size square, white noise 0.25, of
        clean images; with `_adversarial` of the examples. Nothing where no image has a gradient.
    """
    places = torch.arange(min(ANALYSED_IMAGES, len(context.images)), device=context.images.device)
    seen = {"clean": context.images[places].float() / 255.0, "adversarial": adversarial_of(context, places)}
    scalars: dict[str, float] = {}
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    for name, images in seen.items():
        gradients = input_gradients(context.network, images, context.labels[places], context.batch_size)
        if not len(gradients):
            continue
        arrays[name] = radial_profile(gradients).cpu().numpy().astype(np.float32)
        suffix = "" if name == "clean" else "_adversarial"
        scalars[f"gradient_spectrum/central_energy_share{suffix}"] = float(central_energy_share(gradients))
        scalars[f"gradient_spectrum/mean_frequency{suffix}"] = float(mean_frequency(gradients))
    return AnalysisResult(scalars, arrays)
