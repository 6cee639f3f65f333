"""Columns made of others: an image counts where it withstands every one of them.

`aa` is AutoAttack's standard version: `natural`, `apgd_ce`, `apgd_t`, `fab_t` and `square`, and these alone. `worst`
is all columns that are declared beside it and stay in the same ball. An image that one part breaks is not attacked by
those after it. Each image's random numbers hang on the seed and the image, so neither the order of the parts nor what
is known already changes the outcome.

Source: arXiv 2003.01690 (AutoAttack).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ablate.attacks.base import Attack, Network, build_attack, register_attack
from ablate.attacks.evaluation import CleanLogits, evaluate
from ablate.attacks.linf import LinfAttack
from ablate.attacks.threats import Threat
from ablate.core.errors import SpecError
from ablate.spaces.specs import MeasurementSpec

AUTOATTACK = ("natural", "apgd_ce", "apgd_t", "fab_t", "square")
"""The parts of `aa`, in their order."""

NOBODY = -1
"""In `Withstood.broken_by`: no part broke the image."""


@dataclass(frozen=True, kw_only=True)
class Together(LinfAttack):
    """The worst that several attacks do to each image.

    Args:
        eps_255: Radius of their common l-infinity ball, in 1/255.
        parts: The attacks, in the order in which they are tried.
    """

    uses_clean_logits: ClassVar[bool] = True
    reducible: ClassVar[bool] = True

    name: str
    eps_255: float
    parts: tuple[Attack, ...]

    def __post_init__(self) -> None:
        for part in self.parts:
            if part.threat is None:
                raise SpecError(
                    f"measurement.attacks: {self.name}: expected every column beside it to declare its threat (norm "
                    f"and radius), got none of {part.name!r}; give {type(part).__name__} a property threat"
                )
            if not part.threat.is_part_of(self.threat):
                ball, got = self.threat.words(), part.threat.words()
                raise SpecError(f"{self.name}: expected attacks of {ball}, got {got} of {part.name!r}")

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
        """As in `Attack.perturb`: of each image what the first part that breaks it made."""
        if clean_logits is None:
            with torch.no_grad():
                clean_logits = network(images)
        made = images.clone()
        left = torch.arange(len(images), device=images.device)
        for part in self.parts:
            if not len(left):
                break
            chosen = images[left]
            perturbed = part.perturb(
                network, chosen, labels[left], index=index[left], seed=seed, clean_logits=clean_logits[left]
            )
            with torch.no_grad():
                right = network(perturbed).argmax(1) == labels[left]
            made[left] = perturbed
            left = left[right]
        return made


@dataclass(frozen=True)
class Withstood:
    """What came of a column made of others, at one degree of the filter.

    Attributes:
        correct: [N] bool, which images withstand all parts.
        broken_by: [N] int8, the first part that breaks an image; `NOBODY` where none does.
        attacked: How many images each part was tried on here; None where its outcome was known.
    """

    correct: Tensor
    broken_by: Tensor
    attacked: tuple[int | None, ...]


def evaluate_together(
    network: nn.Module,
    whole: Together,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    batch_size: int,
    degrees: Sequence[int | None] = (None,),
    adaptive: bool = False,
    index: Tensor | None = None,
    clean: CleanLogits | None = None,
    known: Mapping[tuple[str, int | None], Tensor] | None = None,
) -> dict[int | None, Withstood]:
    """Which images withstand all parts, seen through low-pass filters of any degree.

    Args:
        network: As in `evaluate`.
        whole: The column.
        images: As in `evaluate`.
        labels: As in `evaluate`.
        seed: As in `evaluate`.
        batch_size: As in `evaluate`.
        degrees: As in `evaluate`.
        adaptive: As in `evaluate`; a part that asks the network nothing is what it is without.
        index: As in `evaluate`.
        clean: As in `evaluate`.
        known: Part and degree -> [N] bool, what earlier measurements found of these images.

    Returns:
        By degree.
    """
    index = torch.arange(len(images)) if index is None else index
    clean = CleanLogits(network, images, batch_size) if clean is None else clean
    known = known or {}
    device = clean.at(degrees[0]).device
    broken_by = {d: torch.full((len(images),), NOBODY, dtype=torch.int8, device=device) for d in degrees}
    attacked: dict[int | None, list[int | None]] = {degree: [] for degree in degrees}
    for number, part in enumerate(whole.parts):
        asked = [degree for degree in degrees if (part.name, degree) not in known]
        found = {d: known[part.name, d].to(device=device, dtype=torch.bool).clone() for d in degrees if d not in asked}
        for degree in asked:
            found[degree] = torch.ones(len(images), dtype=torch.bool, device=device)
        left = torch.zeros(len(images), dtype=torch.bool, device=device)
        for degree in asked:  # one run of the attack serves all filters it does not know of
            left |= broken_by[degree] == NOBODY
        places = left.nonzero().squeeze(1)
        if len(places):
            here = places.to(images.device)
            outcome = evaluate(
                network,
                part,
                images[here],
                labels[here],
                seed=seed,
                batch_size=batch_size,
                degrees=asked,
                adaptive=adaptive and part.uses_network,
                index=index[places.to(index.device)],
                clean=clean.of(places),
            )
            for degree in asked:
                found[degree][places] = outcome[degree]
        for degree in degrees:
            attacked[degree].append(len(places) if degree in asked else None)
            now = (broken_by[degree] == NOBODY) & ~found[degree]
            broken_by[degree] = torch.where(now, number, broken_by[degree]).to(torch.int8)
    return {d: Withstood(broken_by[d] == NOBODY, broken_by[d], tuple(attacked[d])) for d in degrees}


@register_attack("aa")
def _aa(spec: MeasurementSpec) -> Attack:
    return Together(name="aa", eps_255=spec.eps_255, parts=tuple(build_attack(name, spec) for name in AUTOATTACK))


@register_attack("worst")
def _worst(spec: MeasurementSpec) -> Attack:
    ball = Threat("linf", spec.eps_255)
    beside = [build_attack(name, spec) for name in spec.attacks if name != "worst"]
    parts = tuple(part for part in beside if part.threat is None or part.threat.is_part_of(ball))
    if not parts:
        raise SpecError(f"measurement.attacks: worst: expected another column of {ball.words()} beside it, got none")
    return Together(name="worst", eps_255=spec.eps_255, parts=parts)
