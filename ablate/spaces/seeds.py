"""Seeds as a command line names them."""

from __future__ import annotations

import re

from ablate.core.errors import SpecError

MOST_SEEDS = 100_000
"""Of one range: a slip of the keyboard is told instead of planned."""


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` or `0-2` as numbers.

    Args:
        text: Whole numbers from 0 up, and ranges of them, with commas between; each number once.

    Raises:
        SpecError: Anything else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part, re.ASCII)
        if found is None:
            raise SpecError(f"--seeds: expected whole numbers from 0 up, like 0,1,2 or 0-2, got {text[:80]!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < first + MOST_SEEDS:
            expected = f"a range from a smaller to a larger number, of at most {MOST_SEEDS}"
            raise SpecError(f"--seeds: expected {expected}, got {part.strip()!r}")
        seeds += range(first, last + 1)
    if len(set(seeds)) != len(seeds):
        raise SpecError(f"--seeds: expected distinct numbers, got {text!r}")
    return seeds
