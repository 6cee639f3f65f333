"""Square attack in an l-infinity ball: a random search that asks for logits alone, so that no gradient can mislead it.

Every image has squares of its own: their places and colours hang on the seed, the image and the query. AutoAttack draws
one place for a whole batch, and never the last row and column.

Source: arXiv 1912.00049.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ablate.attacks.active_set import ActiveSet, first_to_break, in_whole_batches
from ablate.attacks.apgd import wrong_already
from ablate.attacks.base import Attack, Network, later, refuse_negative, register_attack
from ablate.attacks.carlini_wagner import true_margin
from ablate.attacks.linf import LinfAttack, corners
from ablate.core.randomness import bits, stream
from ablate.spaces.specs import MeasurementSpec

FIRST_SHARE = 0.8
"""Of an image that the first squares cover."""

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which the share is halved; as in AutoAttack's standard version, however many queries there are."""


def side_of(query: int, height: int, width: int) -> int:
    """The side of the square that a query changes, in pixels.

    Args:
        query: From 0.
        height: Of the image.
        width: Of the image.
    """
    share = FIRST_SHARE / 2 ** sum(query > after for after in _HALVED_AFTER)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def _below(raw: Tensor, limit: int) -> Tensor:
    """Random bits as whole numbers from 0 to below `limit`."""
    return ((raw & 0x7FFFFFFF) * limit) >> 31


@dataclass(frozen=True, kw_only=True, repr=False)
class Square(LinfAttack):
    """Random search by squares of one colour at the faces of the ball.

    Args:
        eps_255: Radius of the ball, in 1/255.
        queries: How often the network is asked about an image, beside the start.
        restarts: Random starts; later ones are for the images that are still right.
    """

    uses_clean_logits: ClassVar[bool] = True
    reducible: ClassVar[bool] = True
    spares_broken: ClassVar[bool] = True

    name: str = "square"
    eps_255: float = 8.0
    queries: int = 5000
    restarts: int = later(1)

    def __post_init__(self) -> None:
        refuse_negative(self, "eps_255", "queries", "restarts")

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
        images = images.detach()
        _, done = wrong_already(network, images, labels, clean_logits)

        def attempt(restart: int, done: Tensor) -> tuple[Tensor, Tensor]:
            key = stream(seed, f"attack:{self.name}", restart)
            return self._search(network, images, labels, index, key, done)

        return first_to_break(images, done, attempt, range(self.restarts))

    @torch.no_grad()
    def _search(
        self, network: Network, images: Tensor, labels: Tensor, index: Tensor, seed: int, done: Tensor
    ) -> tuple[Tensor, Tensor]:
        eps = self.eps_255 / 255
        channels, height, width = images.shape[1:]
        lower, upper = corners(images, eps)
        stripes = bits(stream(seed, "start"), index, (channels, 1, width)) & 1
        start = torch.where(stripes.bool(), upper, lower)
        best = torch.full((len(images),), torch.inf, dtype=images.dtype, device=images.device)
        left = ActiveSet(
            images, done, lower=lower, upper=upper, labels=labels, index=index, best=best, now=start, next=start
        )
        ask = in_whole_batches(network)
        rows = torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device)
        for query in range(-1, self.queries):
            if not len(left):
                break
            if query >= 0:
                side = side_of(query, height, width)
                drawn = bits(stream(seed, "square", query), left["index"], (2 + channels,))
                top = _below(drawn[:, 0], height - side + 1)[:, None]
                first = _below(drawn[:, 1], width - side + 1)[:, None]
                inside = ((rows >= top) & (rows < top + side))[:, :, None]
                inside = (inside & ((columns >= first) & (columns < first + side))[:, None, :])[:, None]
                colour = (drawn[:, 2:] & 1).bool()[:, :, None, None]
                left["next"] = torch.where(inside, torch.where(colour, left["upper"], left["lower"]), left["now"])
            logits = ask(left["next"])
            margin = true_margin(logits, left["labels"])
            better = margin < left["best"]
            left["best"] = torch.where(better, margin, left["best"])
            left["now"] = torch.where(better[:, None, None, None], left["next"], left["now"])
            left.note(logits.argmax(1) != left["labels"], left["next"])
        if len(left):
            left.keep(left["now"])
        return left.settle(), left.broken


@register_attack("square")
def _square(spec: MeasurementSpec) -> Attack:
    return Square(eps_255=spec.eps_255, queries=spec.square_queries)
