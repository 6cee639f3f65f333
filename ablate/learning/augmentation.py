"""Random crops, flips, mix-up, cutout, cutmix and filters of whole batches on the device (Section 3.2).

Every augmentation is a function of the batch and of `Draws`, whose numbers depend on (seed, epoch, step, place in the
batch) alone: a replayed step augments the same way, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ablate.analysis.lowpass import filtered
from ablate.core.registry import Registry
from ablate.learning.draws import Draws, columns_of, counted
from ablate.spaces.specs import AugmentationSpec

AugmentationFunction = Callable[[Tensor, Tensor, Draws, AugmentationSpec], tuple[Tensor, Tensor]]
"""(images [N, 3, H, W] in [0, 1], targets [N, K] one-hot, draws, spec) -> the augmented ones, of the same shapes.

Targets that come back unchanged as the very same tensor mean hard labels and cross-entropy; other ones mean soft
labels and binary cross-entropy.
"""

_augmentations: Registry[AugmentationFunction] = Registry("training.augmentation.name")
register_augmentation = _augmentations.register
get_augmentation = _augmentations.get
augmentation_source = _augmentations.source_digest


def crop_and_flip(images: Tensor, draws: Draws, *, padding: int, flip: bool) -> Tensor:
    """Crop each image at random after padding it with black, and mirror each with probability 1/2.

    Args:
        images: [N, 3, H, W] of any dtype.
        draws: The step's random numbers.
        padding: Pixels on each side; 0 crops nothing.
        flip: Whether to mirror.

    Returns:
        The same shape and dtype.
    """
    if padding == 0 and not flip:
        return images
    count, _, height, width = images.shape
    window = draws.windows(padding, flip)
    if padding:
        images = torch.nn.functional.pad(images, (padding, padding, padding, padding))
    place = counted(count, images.device)[:, None, None]
    row = window[:, :1] + counted(height, images.device)
    column = columns_of(width, padding, images.device)[window[:, 1]]
    return images[place, :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)


@register_augmentation("none")
def none(images: Tensor, targets: Tensor, draws: Draws, spec: AugmentationSpec) -> tuple[Tensor, Tensor]:
    """Leave the examples as they are: images [N, 3, H, W] in [0, 1] and labels [N, K]."""
    return images, targets


@register_augmentation("mixup")
def mixup(images: Tensor, targets: Tensor, draws: Draws, spec: AugmentationSpec) -> tuple[Tensor, Tensor]:
    """Mix-up (arXiv 1710.09412): x_i <- a_i x_i + (1 - a_i) x_p(i), and the labels likewise.

    Args:
        images: [N, 3, H, W] in [0, 1].
        targets: [N, K] that sum to 1.
        draws: Of them come a_i, from Beta(beta, beta) for each image, and p, a permutation: each example is used once.
        spec: Its `beta`.

    Returns:
        The mixed images and labels.
    """
    own = draws.beta("mixup proportion", spec.beta)
    partner = draws.permutation("mixup partner")
    share = own[:, None, None, None]
    mixed = share * images + (1.0 - share) * images[partner]
    return mixed, own[:, None] * targets + (1.0 - own[:, None]) * targets[partner]


@register_augmentation("cutout")
def cutout(images: Tensor, targets: Tensor, draws: Draws, spec: AugmentationSpec) -> tuple[Tensor, Tensor]:
    """Cutout (arXiv 1708.04552): a patch of each image becomes black; labels stay.

    Args:
        images: [N, 3, H, W] in [0, 1].
        targets: [N, K], returned as they are.
        draws: Of them come the patches, see `patches`.
        spec: Its `beta`.

    Returns:
        The cut images and the labels.
    """
    inside, _ = patches(images, draws, "cutout", spec.beta)
    return images.masked_fill(inside, 0.0), targets


@register_augmentation("cutmix")
def cutmix(images: Tensor, targets: Tensor, draws: Draws, spec: AugmentationSpec) -> tuple[Tensor, Tensor]:
    """Cutmix (arXiv 1905.04899): a patch of each image comes from the same place of its partner.

    Labels are mixed by the actual share of pixels s_i: y_i <- (1 - s_i) y_i + s_i y_p(i).

    Args:
        images: [N, 3, H, W] in [0, 1].
        targets: [N, K] that sum to 1.
        draws: Of them come the patches, see `patches`, and p, a permutation: each example is used once.
        spec: Its `beta`.

    Returns:
        The mixed images and labels.
    """
    inside, share = patches(images, draws, "cutmix", spec.beta)
    partner = draws.permutation("cutmix partner")
    mixed = torch.where(inside, images[partner], images)
    return mixed, (1.0 - share[:, None]) * targets + share[:, None] * targets[partner]


@register_augmentation("lowpass")
@register_augmentation("highpass")
@register_augmentation("bandstop")
def one_band(images: Tensor, targets: Tensor, draws: Draws, spec: AugmentationSpec) -> tuple[Tensor, Tensor]:
    """What the filter of the augmentation's name leaves of each image, as measurements behind the same filter see it.

    Args:
        images: [N, 3, H, W] in [0, 1].
        targets: [N, K], returned as they are.
        draws: Nothing is drawn.
        spec: Its degrees; they are odd, so that the band is alike in both signs of a frequency.

    Returns:
        The filtered images, which leave [0, 1] (of `highpass` they lie around 0), and the labels.

    Raises:
        SpecError: Images of this size have no such filter.
    """
    return filtered(images, spec.filter), targets


def patches(images: Tensor, draws: Draws, purpose: str, beta: float) -> tuple[Tensor, Tensor]:
    """One rectangle for each image, wholly inside it, whose share of the area is drawn from Beta(beta, beta).

    For a share p the rectangle is round(H sqrt(p)) high and as wide as brings its area closest to p H W: as square as
    whole pixels allow. Its place is uniform.

    Args:
        images: [N, 3, H, W].
        draws: The step's random numbers.
        purpose: Prefix of the streams.
        beta: Both parameters of the distribution.

    Returns:
        [N, 1, H, W] bool, true inside the rectangle, and [N] float32, the share of the pixels that is inside.
    """
    height, width = images.shape[2:]
    area = draws.beta(f"{purpose} proportion", beta) * (height * width)
    tall = (height * (area / (height * width)).sqrt() + 0.5).floor()
    wide = (area / tall.clamp(min=1.0) + 0.5).floor().clamp(max=width) * (tall > 0)
    place = draws.uniform(f"{purpose} place", (2,))
    top = (place[:, 0] * (height - tall + 1)).floor()
    left = (place[:, 1] * (width - wide + 1)).floor()
    row = torch.arange(height, device=images.device)[None, :, None]
    column = torch.arange(width, device=images.device)[None, None, :]
    top, bottom = top[:, None, None], (top + tall)[:, None, None]
    left, right = left[:, None, None], (left + wide)[:, None, None]
    inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    return inside[:, None], tall * wide / (height * width)
