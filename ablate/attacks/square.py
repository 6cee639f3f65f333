"""Square attack in an l-infinity ball: a random search that asks for logits alone, so that no gradient can mislead it.

Every image has squares of its own: their places and colours hang on the seed, the image and the query. AutoAttack draws
one place for a whole batch, and never the last row and column. Most queries gain nothing. So where a batch has room, an
image asks about several at once, all from where it is now, and goes on after the first that gains: what it would have
done one by one.

Source: arXiv 1912.00049.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.attacks.active_set import (
    ActiveSet,
    first_hit,
    first_to_break,
    format_of,
    in_whole_batches,
    rows_to_fill,
    where_memory_allows,
)
from ablate.attacks.apgd import wrong_already
from ablate.attacks.base import Attack, Network, later, refuse_negative, register_attack
from ablate.attacks.carlini_wagner import true_margin
from ablate.attacks.linf import LinfAttack, corners
from ablate.core.randomness import bits, stream
from ablate.spaces.specs import MeasurementSpec

FIRST_SHARE = 0.8
"""Of an image that the first squares cover."""

_MORE_AHEAD_EVERY = 8
"""Passes after which an image may ask about one query more at once: at first many queries gain, later one in twenty."""

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


def _below(raw: Tensor, limit: Tensor) -> Tensor:
    """Random bits [n, 1] as whole numbers from 0 to below `limit`, [n, 1]."""
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
        eps, device = self.eps_255 / 255, images.device
        channels, height, width = images.shape[1:]
        lower, upper = corners(images, eps)
        stripes = bits(stream(seed, "start"), index, (channels, 1, width)) & 1
        start = torch.where(stripes.bool(), upper, lower)
        best = torch.full((len(images),), torch.inf, dtype=images.dtype, device=device)
        left = ActiveSet(
            images, done, lower=lower, upper=upper, labels=labels, index=index, best=best, now=start, query=0 * labels
        )
        ask = in_whole_batches(network)
        keys = torch.tensor([stream(seed, "square", query) for query in range(self.queries)], device=device)
        sides = torch.tensor([side_of(query, height, width) for query in range(self.queries)], device=device)
        if len(left):
            logits = ask(left["now"])
            margin = true_margin(logits, left["labels"])
            left["best"] = torch.where(margin < left["best"], margin, left["best"])
            left.note(logits.argmax(1) != left["labels"], left["now"], through=left["query"] >= self.queries)

        def look(rows: Tensor, image: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
            """The points of queries, and what the network says of them."""
            drawn = bits(keys[query], left["index"][image], (2 + channels,))
            points = corners_by_square(
                left["now"][image], left["lower"][image], left["upper"][image], drawn, sides[query]
            ).contiguous(memory_format=format_of(images))
            return points, ask(points)

        passes, most = 0, math.inf
        while len(left) and self.queries:
            count, ahead = len(left), 1 + passes // _MORE_AHEAD_EVERY
            rows = torch.arange(int(max(count, min(rows_to_fill(count, device, ahead), most))), device=device)
            image = rows % count
            query = left["query"][image] + rows // count
            due = query < self.queries
            query = query.clamp(max=self.queries - 1)
            answer = where_memory_allows(functools.partial(look, rows, image, query), least=len(rows) == count)
            if answer is None:
                most = len(rows) // 2
                continue
            passes += 1
            asked, logits = answer
            truth = left["labels"][image]
            margin = true_margin(logits, truth)
            wrong = logits.argmax(1) != truth
            gained = due & (wrong | (margin < left["best"][image]))
            # Of each image the first query that gains: those after it were asked about a point that it leaves.
            any_, rank = first_hit(_per_image(gained, count))
            row = rank * count + rows[:count]
            left["best"] = torch.where(any_, margin[row], left["best"])
            left["now"] = torch.where(any_[:, None, None, None], asked[row], left["now"])
            left["query"] = left["query"] + torch.where(any_, rank + 1, _per_image(due, count).sum(dim=0))
            left.note(any_ & wrong[row], left["now"], through=left["query"] >= self.queries)
        return left.settle(), left.broken


def corners_by_square(now: Tensor, lower: Tensor, upper: Tensor, drawn: Tensor, side: Tensor) -> Tensor:
    """Points with a square of the ball's corners each; random bits [n, 2 + channels], sides [n]."""
    height, width = now.shape[2:]
    rows = torch.arange(height, device=now.device)
    columns = torch.arange(width, device=now.device)
    side = side[:, None]
    top = _below(drawn[:, :1], height - side + 1)
    first = _below(drawn[:, 1:2], width - side + 1)
    inside = ((rows >= top) & (rows < top + side))[:, :, None]
    inside = (inside & ((columns >= first) & (columns < first + side))[:, None, :])[:, None]
    colour = (drawn[:, 2:] & 1).bool()[:, :, None, None]
    return torch.where(inside, torch.where(colour, upper, lower), now)


def _per_image(rows: Tensor, count: int) -> Tensor:
    """[R] bool, of queries one after the other for all images, as [ceil(R / count), count]; what lacks is False."""
    return F.pad(rows, (0, -len(rows) % count)).view(-1, count)


@register_attack("square")
def _square(spec: MeasurementSpec) -> Attack:
    return Square(eps_255=spec.eps_255, queries=spec.square_queries)
