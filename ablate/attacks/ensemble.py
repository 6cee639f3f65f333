"""Columns made of others: an image counts where it withstands every one of them.

`aa` is AutoAttack's standard version: `natural`, `apgd_ce`, `apgd_t`, `fab_t` and `square`, and these alone. `worst`
is all columns that are declared beside it and stay in the same ball. An image that one part breaks is not attacked by
those after it. Each image's random numbers hang on the seed and the image, so neither the order of the parts nor what
is known already changes the outcome.

Source: arXiv 2003.01690 (AutoAttack).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ablate.attacks.base import Attack, Network, build_attack, register_attack
from ablate.attacks.evaluation import CleanLogits, evaluate
from ablate.attacks.linf import LinfAttack
from ablate.attacks.threats import Threat
from ablate.core.errors import SpecError
from ablate.core.filters import Filter
from ablate.spaces.specs import MeasurementSpec

AUTOATTACK = ("natural", "apgd_ce", "apgd_t", "fab_t", "square")
"""The parts of `aa`, in their order."""

NOBODY = -1
"""In `EnsembleOutcome.broken_by`: no part broke the image."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Ensemble(LinfAttack):
    """The worst that several attacks do to each image.

    Args:
        eps_255: Radius of their common l-infinity ball, in 1/255.
        parts: The attacks, in the order in which they are tried.
    """

    kept_name: ClassVar[str] = "Together"
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

    @property
    def least_classes(self) -> int:  # type: ignore[override]
        """Of a data set that all parts can attack."""
        return max([LinfAttack.least_classes, *(part.least_classes for part in self.parts)])

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
class EnsembleOutcome:
    """What came of a column made of others, behind one filter.

    Attributes:
        correct: [N] bool, which images withstand all parts.
        broken_by: [N] int8, the first part that breaks an image; `NOBODY` where none does.
        attacked: How many images each part was tried on here; None where its outcome was known.
    """

    correct: Tensor
    broken_by: Tensor
    attacked: tuple[int | None, ...]


def evaluate_ensemble(
    network: nn.Module,
    whole: Ensemble,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    batch_size: int,
    filters: Sequence[Filter | None] = (None,),
    adaptive: bool = False,
    index: Tensor | None = None,
    clean: CleanLogits | None = None,
    known: Mapping[tuple[str, Filter | None], Tensor] | None = None,
    search: Network | None = None,
    progress: Callable[[int, int], None] | None = None,
    costs: Sequence[float] | None = None,
) -> dict[Filter | None, EnsembleOutcome]:
    """Which images withstand all parts, seen through filters of their frequencies; other arguments as of `evaluate`.

    Args:
        whole: The column.
        adaptive: As of `evaluate`; a part that asks the network nothing is what it is without.
        known: Part and filter -> [N] bool, what earlier measurements found of these images.
        progress: To be told after each batch how much is done, and of how much, in units of `costs`.
        costs: Of each part; None: each costs the same.

    Returns:
        By filter.
    """
    index = torch.arange(len(images)) if index is None else index
    clean = CleanLogits(network, images, batch_size) if clean is None else clean
    known = known or {}
    costs = costs or [100.0] * len(whole.parts)
    device = clean.at(filters[0]).device
    broken_by = {seen: torch.full((len(images),), NOBODY, dtype=torch.int8, device=device) for seen in filters}
    attacked: dict[Filter | None, list[int | None]] = {seen: [] for seen in filters}
    for number, part in enumerate(whole.parts):
        asked = [seen for seen in filters if (part.name, seen) not in known]
        found = {
            seen: known[part.name, seen].to(device=device, dtype=torch.bool).clone()
            for seen in filters
            if seen not in asked
        }
        for seen in asked:
            found[seen] = torch.ones(len(images), dtype=torch.bool, device=device)
        left = torch.zeros(len(images), dtype=torch.bool, device=device)
        for seen in asked:  # one run of the attack serves all filters it does not know of
            left |= broken_by[seen] == NOBODY
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
                filters=asked,
                adaptive=adaptive and part.uses_network,
                index=index[places.to(index.device)],
                clean=clean.of(places),
                search=search,
                progress=None if progress is None else functools.partial(_tell_of_part, progress, costs, number),
            )
            for seen in asked:
                found[seen][places] = outcome[seen]
        for seen in filters:
            attacked[seen].append(len(places) if seen in asked else None)
            now = (broken_by[seen] == NOBODY) & ~found[seen]
            broken_by[seen] = torch.where(now, number, broken_by[seen]).to(torch.int8)
    return {
        seen: EnsembleOutcome(broken_by[seen] == NOBODY, broken_by[seen], tuple(attacked[seen])) for seen in filters
    }


def _tell_of_part(
    progress: Callable[[int, int], None], costs: Sequence[float], number: int, done: int, count: int
) -> None:
    """How far all parts are, when one of them is at `done` of `count` images."""
    progress(round(sum(costs[:number]) + costs[number] * done / count), round(sum(costs)))


@register_attack("aa")
def _aa(spec: MeasurementSpec) -> Attack:
    return Ensemble(name="aa", eps_255=spec.eps_255, parts=tuple(build_attack(name, spec) for name in AUTOATTACK))


@register_attack("worst")
def _worst(spec: MeasurementSpec) -> Attack:
    ball = Threat("linf", spec.eps_255)
    beside = [build_attack(name, spec) for name in spec.attacks if name != "worst"]
    parts = tuple(part for part in beside if part.threat is None or part.threat.is_part_of(ball))
    if not parts:
        raise SpecError(f"measurement.attacks: worst: expected another column of {ball.words()} beside it, got none")
    return Ensemble(name="worst", eps_255=spec.eps_255, parts=parts)
