"""How comparisons are decided: intervals, their levels at each look, Holm's procedure, and what more seeds would do.

`docs/verdicts.md` is the page about it, with the error rates that `benchmarks/verdicts.py` measures.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ablate.report.verdicts.contrasts import Contrast
from ablate.report.verdicts.evidence import Array, Estimate, Noise

ALPHA = 0.05
"""How often a claim may be decided wrongly, at any look, in either direction together."""

POWER = 0.8
"""With how much probability the trainings asked for would decide, were effect and noise what they seem."""

MOST_SEEDS = 1000
"""More seeds a row than this are not thought of."""

_QUADRATURE, _LEVELS = 20, 48
_PIECES = ((0.0, 1e-4), (1e-4, 1e-2), (1e-2, 1.0))
_SMALLEST_LEVEL = 1e-9
_RATIOS = np.concatenate([np.linspace(0.5, 0.95, 10), [0.97, 0.985, 0.993, 0.997, 0.999]])
"""The larger row's share in the variance of a difference."""

_EACH_DF = 30
_EXACT_DF = 200
"""From so many degrees of freedom on Welch's test keeps its level to the third digit."""


def levels(looks: Sequence[int]) -> list[float]:
    """The level of each look; their sum is `ALPHA`, so a claim is decided wrongly at any of them that often at most.

    The k-th look has a share proportional to 1/(k(k + 1)): of five looks 0.03, 0.01, 0.005, 0.003 and 0.002. Most goes
    to the first, where Student's t is so wide that each bit of level is worth most seeds.

    Args:
        looks: Numbers of seeds.
    """
    count = len(looks)
    return [ALPHA * (count + 1) / count / (k * (k + 1)) for k in range(1, count + 1)]


@functools.lru_cache(maxsize=256)
def _welch_sizes(df: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nominal levels of Welch's test for two rows of equal df, and how often it errs at the worst ratio of noises.

    For sample variances S1, S2 with B = S1/(S1 + S2) of a beta distribution (of the standardized ones) the total is
    independent of B, so that the rate given B is a tail of Student's t with 2 df: one integral is left, over B.
    """
    # By quantiles of B, close together where the noisier row happens to look quiet.
    points, weights = special.roots_legendre(_QUADRATURE)
    pieces = [(low + (high - low) * (points + 1) / 2, (high - low) * weights / 2) for low, high in _PIECES]
    beta = special.betaincinv(df / 2, df / 2, np.concatenate([quantile for quantile, _ in pieces]))
    weights = np.concatenate([weight for _, weight in pieces])
    ratio = _RATIOS[:, None]
    scale = ratio * beta + (1 - ratio) * (1 - beta)
    share = ratio * beta / scale
    welch = 1.0 / ((share**2 + (1 - share) ** 2) / df)
    nominal = np.exp(np.linspace(math.log(_SMALLEST_LEVEL), 0.0, _LEVELS))
    needed = -special.stdtrit(welch, nominal[:, None, None] / 2)
    rates = 2 * special.stdtr(2 * df, -needed * np.sqrt(2 * scale))
    return nominal, np.maximum.accumulate(np.maximum(nominal, (rates * weights).sum(-1).max(-1)))


def welch_level(level: float, df: float) -> float:
    """The nominal level at which Welch's test of two rows errs at most at a level, whatever their noises.

    With few seeds it errs more often than it says, where one row is noisier: at 3 seeds 0.058 for 0.05, and twice its
    level at 0.005.

    Args:
        level: To be kept.
        df: Of each row.
    """
    if df >= _EXACT_DF:
        return level
    nominal, sizes = _welch_sizes(df if df <= _EACH_DF else 20.0 * (df // 20))  # fewer err more often: never too little
    return float(np.exp(np.interp(math.log(level), np.log(sizes), np.log(nominal))))


def half_width(found: Estimate, level: float) -> Array:
    """Half of the interval of an effect at a level; infinite where the noise is not known.

    Test-set error and seed noise have an interval each, the latter one for every two rows (an interaction has four),
    and the whole one is the root of their squares' sum. That keeps
    the level: the rate is 2 Phi(-sqrt(x)) of x = (bound / standard error)^2, which is convex, and the x of the whole is
    the mean of the parts' weighted by their variances, so the rate is at most the weighted mean of theirs.
    """
    squared = _t(level, _image_df(found)) ** 2 * found.image_variance
    for first in range(0, len(found.noise), 2):
        squared = squared + _squared_bound(found.noise[first : first + 2], level)
    return np.where(found.same, 0.0, np.where(found.mute, np.inf, np.sqrt(squared)))


def _squared_bound(pair: Sequence[Noise], level: float) -> Array:
    """The square of half an interval for the noise of one row, or of two rows of different trainings."""
    if len(pair) == 1:
        return np.asarray(_t(level, pair[0].df) ** 2 * pair[0].share())
    one, other = (part.share() for part in pair)
    free = min(part.df for part in pair)
    below = one**2 / pair[0].df + other**2 / pair[1].df
    welch = np.divide((one + other) ** 2, below, out=np.full_like(below, free), where=below > 0)
    return np.asarray(_t(welch_level(level, free), welch) ** 2 * (one + other))


def _image_df(found: Estimate) -> float:
    return max((found.images or 2) - 1.0, 1.0)


def _t(level: float, df: float | Array) -> Array:
    return np.asarray(-special.stdtrit(df, level / 2))


def sides(contrast: Contrast, found: Estimate, level: float) -> NDArray[np.int8]:
    """Where the interval of a contrast lies at a level: 1 inside its region, -1 outside, 0 on both sides of a bound.

    As many as the estimate has effects: a scalar of one table, [tables] of simulated ones.
    """
    half = half_width(found, level)
    low, high = found.effect - half, found.effect + half
    inside = (low > contrast.low) & (high < contrast.high)
    outside = (high < contrast.low) | (low > contrast.high)
    return inside.astype(np.int8) - outside.astype(np.int8)


@dataclass
class Standing:
    """What has come of the comparisons of a claim so far; arrays of [comparisons, ...tables].

    Attributes:
        sides: 1 holds, -1 fails, 0 is open.
        look: At which look it was decided, from 0 on; -1 is open.
        levels: The level each was tested at last.
    """

    sides: NDArray[np.int8]
    look: NDArray[np.int64]
    levels: NDArray[np.float64]

    @classmethod
    def new(cls, comparisons: int, shape: tuple[int, ...] = ()) -> Standing:
        """Nothing is decided."""
        whole = (comparisons, *shape)
        return cls(np.zeros(whole, np.int8), np.full(whole, -1), np.full(whole, math.nan))

    @property
    def claim(self) -> NDArray[np.int8]:
        """The claim: 1 where all comparisons hold, -1 where one fails, else 0."""
        return np.where((self.sides < 0).any(0), -1, (self.sides > 0).all(0)).astype(np.int8)

    def take(self, look: int, asked: Sequence[Contrast], found: Sequence[Estimate], level: float) -> None:
        """Take a look: Holm's procedure over the comparisons that no earlier look has decided.

        The comparisons left share the level; each decision leaves more for the others. What is decided stays so: the
        first wrong decision, at whichever look, is then made at no more than level/m of m comparisons that can be
        wrong, so that all looks together err as often as their levels' sum at most.

        Args:
            look: Its number, from 0 on.
            asked: The comparisons.
            found: What is known of each at this look.
            level: Of this look.
        """
        over = self.claim != 0  # a claim that is decided is not looked at again
        for left in range(len(asked), 0, -1):
            now = ((self.sides == 0).sum(0) == left) & ~over
            if not now.any():
                continue
            share = level / left
            for index, (contrast, known) in enumerate(zip(asked, found, strict=True)):
                open_ = now & (self.sides[index] == 0)
                if not open_.any():
                    continue
                self.levels[index] = np.where(open_, share, self.levels[index])
                if known.problem is None:
                    new = np.where(open_, sides(contrast, known, share), 0).astype(np.int8)
                    self.look[index] = np.where(new != 0, look, self.look[index])
                    self.sides[index] += new


def smallest_level(contrast: Contrast, found: Estimate) -> float:
    """The smallest level at which one table's comparison would be decided: its p-value; 1 where none would do."""

    def decided(level: float) -> bool:
        return bool(sides(contrast, found, level) != 0)

    if not decided(1.0 - 1e-9):
        return 1.0
    low, high = math.log(_SMALLEST_LEVEL), 0.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if decided(math.exp(middle)) else (middle, high)
    return math.exp(high)


def gap(contrast: Contrast, found: Estimate) -> float:
    """How far the effect is from the nearest bound of the region."""
    return min(abs(float(found.effect) - bound) for bound in (contrast.low, contrast.high) if math.isfinite(bound))


def power(contrast: Contrast, found: Estimate, level: float, trainings: int) -> float:
    """With how much probability so many trainings a row decide a comparison, were effect and noise what they seem.

    Args:
        contrast: With its region.
        found: What is known of it.
        level: It is tested at.
        trainings: A row.
    """
    if bool(found.mute):
        return 0.0
    if bool(found.same):
        return float(contrast.low < found.effect < contrast.high)
    variance = float(found.variance(trainings))
    parts = [(float(part.share(trainings)), part.free(trainings, fixed=found.borrowed)) for part in found.noise]
    parts.append((float(found.image_variance), _image_df(found)))
    half = float(half_width(_with(found, trainings), level))
    if variance <= 0.0:
        return 1.0
    df = variance**2 / sum(share**2 / free for share, free in parts)
    error = math.sqrt(variance)
    if contrast.low < float(found.effect) < contrast.high:
        ends = (float(found.effect) - contrast.low, contrast.high - float(found.effect))
        # Inside of two bounds, both have to be kept.
        return max(0.0, 1.0 - sum(float(special.stdtr(df, (half - end) / error)) for end in ends if math.isfinite(end)))
    return float(special.stdtr(df, (gap(contrast, found) - half) / error))


def _with(found: Estimate, trainings: int) -> Estimate:
    """The same effect and noise, known from so many trainings a row."""
    noise = tuple(
        dataclasses.replace(part, trainings=trainings, df=part.free(trainings, fixed=found.borrowed))
        for part in found.noise
    )
    return dataclasses.replace(found, noise=noise)


def look_to_decide(
    contrast: Contrast, found: Estimate, looks: Sequence[int], share: Callable[[int], float]
) -> int | None:
    """The first of some looks that decides with probability 0.8, were effect and noise what they seem.

    Args:
        contrast: With its region.
        found: What is known of it.
        looks: Numbers of seeds.
        share: Look -> the level at which it would be tested there.

    Returns:
        Seeds a row; None where no look would.
    """
    if gap(contrast, found) == 0.0:
        return None
    return next((n for n in looks if power(contrast, found, share(n), n) > POWER), None)


def seeds_beyond(contrast: Contrast, found: Estimate, level: float, looks: Sequence[int]) -> int | None:
    """About how many seeds a row would decide it where no look does; None where 1000 would not."""
    if gap(contrast, found) == 0.0 or power(contrast, found, level, MOST_SEEDS) <= POWER:
        return None
    low, high = max(looks, default=1), MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(contrast, found, level, middle) > POWER else (middle, high)
    return high


def images_forbid(contrast: Contrast, found: Estimate, level: float) -> bool:
    """Whether the test-set error alone keeps any number of trainings from deciding; arguments as of `power`."""
    needed = float(-special.ndtri(level / 2) - special.ndtri(1 - POWER))
    return gap(contrast, found) <= needed * math.sqrt(float(found.image_variance))
