"""PGD inside one band of the spectrum: what an attacker does to a network who may only change low, middle or high
frequencies, and no pixel by more than the l-infinity radius."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ablate.analysis.bands import THIRDS, band_mask, project, third_mask
from ablate.attacks.base import Attack, Network, refuse_negative, register_attack
from ablate.attacks.linf import LinfAttack, ascend, corners, cross_entropy_of, uniform_start
from ablate.core.errors import SpecError, nearest
from ablate.core.randomness import stream
from ablate.spaces.specs import MeasurementSpec

OUT_OF_BAND = 0.01
"""The largest share of a perturbation's energy that lies outside its band."""

_ROUNDS = 10
_LAST_ROUNDS = 40


def inside(perturbation: Tensor, mask: Tensor, lower: Tensor, upper: Tensor, rounds: int) -> Tensor:
    """The point of a band nearest to a perturbation that stays within bounds, by Dykstra's algorithm.

    A band is a linear space and the bounds are a box: projecting on one in turn with the other, with the box's part
    given back before its next turn, converges to the nearest point that both have (Boyle and Dykstra 1986).

    Args:
        perturbation: [N, C, H, H] float.
        mask: [H, H] bool, the band.
        lower: [N, C, H, H], at most 0.
        upper: [N, C, H, H], at least 0.
        rounds: How often both are projected on.

    Returns:
        [N, C, H, H] in the band, and within the bounds as far as so few rounds bring it.
    """
    found, owed = project(perturbation, mask), torch.zeros_like(perturbation)
    for _ in range(rounds):
        moved = found + owed
        bounded = torch.clamp(moved, lower, upper)
        owed = moved - bounded
        found = project(bounded, mask)
    return found


def settled(perturbation: Tensor, mask: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """A perturbation of a band clipped to its bounds; where that moves more than `OUT_OF_BAND` out of it, shrunk.

    Args:
        perturbation: [N, C, H, H] in the band.
        mask: [H, H] bool, the band.
        lower: As in `inside`.
        upper: As in `inside`.

    Returns:
        [N, C, H, H] within the bounds; no more than `OUT_OF_BAND` of an image's energy lies outside the band.
    """
    clipped = torch.clamp(perturbation, lower, upper)
    lost = (clipped - project(clipped, mask)).double().square().sum(dim=(1, 2, 3))
    fits = lost <= OUT_OF_BAND * clipped.double().square().sum(dim=(1, 2, 3))
    room = torch.where(perturbation > 0, upper, lower) / torch.where(perturbation == 0, 1.0, perturbation)
    room = torch.where(perturbation == 0, 1.0, room).amin(dim=(1, 2, 3), keepdim=True).clamp(0.0, 1.0)
    return torch.where(fits[:, None, None, None], clipped, torch.clamp(room * perturbation, lower, upper))


@dataclass(frozen=True, kw_only=True, repr=False)
class BandPGD(LinfAttack):
    """PGD from a random start whose perturbation lies in one band of the spectrum, in the l-infinity ball and [0, 1].

    Each step goes along the part in the band of the sign of the gradient's part in the band. The ball, the range of
    pixels and the band are reconciled by Dykstra's algorithm (`inside`): 10 rounds after each step, 40 after the last.
    Then ball and range are made exact by clipping, which puts at most `OUT_OF_BAND` (1 %) of an image's perturbation
    outside the band; where it would be more (an image that is black or white nearly everywhere leaves hardly any room),
    the perturbation in the band is shrunk until it needs no clipping. In the whole spectrum nothing is projected, and
    it is PGD to the last bit.

    Args:
        band: `low`, `mid`, `high`: thirds of the spectrum (`ablate.analysis.bands`); `whole`; or the first and last
            max(|u|, |v|) of a band in cycles per image, both included.
        eps_255: Radius of the ball, in 1/255.
        step_255: Step size alpha, in 1/255.
        steps: Iterations.
    """

    name: str
    band: str | tuple[int, int]
    eps_255: float = 8.0
    step_255: float = 2.0
    steps: int = 20

    def __post_init__(self) -> None:
        refuse_negative(self, "eps_255", "step_255", "steps")
        if isinstance(self.band, str):
            if self.band not in (*THIRDS, "whole"):
                known = nearest(self.band, (*THIRDS, "whole"))
                raise SpecError(f"{self.name}: expected a band of the spectrum, got {self.band!r}; {known}")
        elif not 0 <= self.band[0] <= self.band[1]:
            raise SpecError(
                f"{self.name}: expected a band with a frequency in it, got {self.band[0]} to {self.band[1]}"
            )

    def mask(self, size: int, device: torch.device | None = None) -> Tensor | None:
        """The band's mask for images of a size, [size, size] as of `ablate.analysis.bands`; None of the whole spectrum.

        Raises:
            SpecError: Images of this size have no such frequencies.
        """
        if self.band == "whole":
            return None
        if isinstance(self.band, str):
            return third_mask(size, self.band, device)
        found = band_mask(size, *self.band, device)
        return None if self.band == (0, size // 2) else found

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
        mask = self.mask(images.shape[-1], images.device)
        eps, step, loss = self.eps_255 / 255, self.step_255 / 255, cross_entropy_of(labels)
        start = uniform_start(images, eps, stream(seed, f"attack:{self.name}"), index)
        if mask is None:
            return ascend(network, images, loss, start=start, eps=eps, step=step, steps=self.steps)
        lowest, highest = corners(images, eps)
        lower, upper = lowest - images, highest - images

        def along(gradient: Tensor) -> Tensor:
            return project(project(gradient, mask).sign(), mask)

        def reconciled(moved: Tensor) -> Tensor:
            return torch.clamp(images + inside(moved - images, mask, lower, upper, _ROUNDS), lowest, highest)

        current = ascend(network, images, loss, start=reconciled(start), eps=eps, step=step, steps=self.steps,
                         along=along, reconciled=reconciled)  # fmt: skip
        found = inside(current - images, mask, lower, upper, _LAST_ROUNDS)
        return torch.clamp(images + settled(found, mask, lower, upper), lowest, highest)


def _register(band: str) -> None:
    @register_attack(f"pgd20_{band}")
    def factory(spec: MeasurementSpec) -> Attack:
        return BandPGD(name=f"pgd20_{band}", band=band, eps_255=spec.eps_255, step_255=spec.step_255)


for _band in THIRDS:
    _register(_band)
