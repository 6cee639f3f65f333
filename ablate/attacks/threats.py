"""What an adversary may do to an image: the ball that an attack promises to stay in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

UNBOUNDED = math.inf


@dataclass(frozen=True)
class Threat:
    """A ball around the image, within [0, 1].

    Args:
        norm: `linf`, the largest change of a pixel, or `l2`, the Euclidean length of the change.
        radius_255: In 1/255; infinite for an attack without a bound, 0 for one that changes nothing.
    """

    norm: Literal["linf", "l2"]
    radius_255: float

    def is_part_of(self, other: Threat) -> bool:
        """Whether all that is done under this threat counts under another: the same ball, or the image itself."""
        return self == other or self.radius_255 == 0

    def words(self) -> str:
        """The ball in words: `l-infinity, 8/255`."""
        norm = {"linf": "l-infinity", "l2": "l2"}[self.norm]
        return f"{norm}, unbounded" if math.isinf(self.radius_255) else f"{norm}, {self.radius_255:g}/255"
