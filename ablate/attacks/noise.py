"""The columns without an adversary: clean images, and Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ablate.attacks.base import Attack, Network, refuse_negative, register_attack
from ablate.attacks.threats import UNBOUNDED, Threat
from ablate.core.randomness import normal, stream
from ablate.spaces.specs import MeasurementSpec


@dataclass(frozen=True, kw_only=True)
class Natural(Attack):
    """Clean images: the identity."""

    uses_network: ClassVar[bool] = False

    name: str = "natural"

    @property
    def threat(self) -> Threat:
        """The image alone, a point of every ball."""
        return Threat("linf", 0.0)

    def perturb(
        self,
        network: Network,
        images: Tensor,
        labels: Tensor,
        *,
        index: Tensor,
        seed: int,
        clean_logits: Tensor | None = None,
    ) -> Tensor:
        """As in `Attack.perturb`: the images themselves, the very same tensor."""
        return images


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Attack):
    """clip(x + std * N(0, 1)) to [0, 1].

    Args:
        std: Standard deviation, pixels in [0, 1].
    """

    uses_network: ClassVar[bool] = False

    name: str = "gn"
    std: float = 0.1

    def __post_init__(self) -> None:
        refuse_negative(self, "std")

    @property
    def threat(self) -> Threat:
        """Noise has no bound."""
        return Threat("l2", UNBOUNDED)

    def perturb(
        self,
        network: Network,
        images: Tensor,
        labels: Tensor,
        *,
        index: Tensor,
        seed: int,
        clean_logits: Tensor | None = None,
    ) -> Tensor:
        """As in `Attack.perturb`."""
        noise = normal(stream(seed, f"attack:{self.name}"), index, tuple(images.shape[1:])).to(images.dtype)
        return (images + self.std * noise).clamp_(0.0, 1.0)


@register_attack("natural")
def _natural(spec: MeasurementSpec) -> Attack:
    return Natural()


@register_attack("gn")
def _gn(spec: MeasurementSpec) -> Attack:
    return GaussianNoise(std=spec.noise_std)
