"""Random crops, flips, mix-up, cutout and cutmix of whole batches on the device (Section 3.2).

Every augmentation is a function of the batch and of `Draws`, whose numbers depend on (seed, epoch, step, place in the
batch) alone: a replayed step augments the same way, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ablate.core import randomness
from ablate.core.registry import Registry
from ablate.spaces.specs import AugmentationSpec


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training step.

    Attributes:
        seed: The trial's seed.
        epoch: From 1.
        step: From 0.
        count: Images in the batch.
        device: Where the numbers are wanted.
    """

    seed: int
    epoch: int
    step: int
    count: int
    device: torch.device

    def key(self, purpose: str) -> int:
        """The key of a stream for this step, for the functions of `ablate.core.randomness`."""
        return randomness.stream(self.seed, purpose, self.epoch, self.step)

    def uniform(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform numbers in [0, 1) for each image.

        Args:
            purpose: What they are for; different purposes are independent.
            shape: What one image needs.

        Returns:
            [count, *shape] float32.
        """
        return randomness.uniform(self.key(purpose), torch.arange(self.count, device=self.device), shape)

    def permutation(self, purpose: str) -> Tensor:
        """A random order of the batch: [count] int64, each place once."""
        return randomness.permutation(self.key(purpose), self.count, self.device)

    def beta(self, purpose: str, parameter: float) -> Tensor:
        """One number of Beta(parameter, parameter) for each image: the quantile at a uniform number.

        Args:
            purpose: What they are for.
            parameter: Both parameters of the distribution, above 0.

        Returns:
            [count] float32 in [0, 1]; Beta(1, 1) is the uniform distribution itself.
        """
        if parameter == 1.0:
            return self.uniform(purpose)
        return self.quantiles(purpose, parameter)

    def quantiles(self, purpose: str, parameter: float) -> Tensor:
        """As `beta`, for any parameter; computed on the host."""
        # torch has no quantiles of it. The uniform numbers are the same on the CPU, so nothing waits for the device.
        rank = randomness.uniform(self.key(purpose), torch.arange(self.count)).double()
        # Imported here: planning registers augmentations and draws nothing.
        from scipy.special import betaincinv

        quantile = betaincinv(parameter, parameter, rank.numpy())
        return torch.from_numpy(quantile).clamp(0.0, 1.0).float().to(self.device, non_blocking=True)


AugmentationFunction = Callable[[Tensor, Tensor, Draws, AugmentationSpec], tuple[Tensor, Tensor]]
"""(images [N, 3, H, W] in [0, 1], targets [N, K] one-hot, draws, spec) -> the augmented ones, of the same shapes.

Targets that come back unchanged as the very same tensor mean hard labels and cross-entropy; other ones mean soft
labels and binary cross-entropy.
"""

_augmentations: Registry[AugmentationFunction] = Registry("training.augmentation.name")
register_augmentation = _augmentations.register
get_augmentation = _augmentations.get
augmentation_names = _augmentations.names
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
    rows = torch.arange(height, device=images.device).expand(count, height)
    columns = torch.arange(width, device=images.device).expand(count, width)
    if flip:
        mirrored = draws.uniform("flip") < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    if padding:
        offset = (draws.uniform("crop", (2,)) * (2 * padding + 1)).long()
        images = torch.nn.functional.pad(images, (padding, padding, padding, padding))
        rows = rows + offset[:, 0, None]
        columns = columns + offset[:, 1, None]
    place = torch.arange(count, device=images.device)[:, None, None]
    return images[place, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@register_augmentation("none")
def none(images: Tensor, targets: Tensor, draws: Draws, spec: AugmentationSpec) -> tuple[Tensor, Tensor]:
    """Leave the examples as they are."""
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
