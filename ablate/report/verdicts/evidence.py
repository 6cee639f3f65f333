"""How far a table's numbers can be trusted: the effect of a contrast of rows, and its error.

A contrast is a weighted sum of (row, metric) means, e.g. row A minus row B. Its variance has two sources:

- *Seed noise.* Rows of different trainings: the variance within rows, pooled over the table's rows, df = sum(n_r - 1),
  where rows that share their trainings count once; equal seeds of different trainings pair nothing. Rows that share
  their trainings: the variance of the contrast itself over the shared trainings, df = n - 1.
  A pooled variance is the rows' own only where they are equally noisy. So each contrast is judged a second time by its
  own rows' variances alone (Welch), and decided only where both decide: quiet rows lend a noisy one no certainty.
- *Test-set error.* The variance over the test images of the contrast of per-image correctness, averaged over seeds;
  rows on the same test set are paired image by image, so what is hard for both cancels (as in McNemar's test). What the
  seeds disagree on image by image is in the seed noise already and is taken out (two-way random effects: Var = s_t^2/n
  + s_i^2/N + s_ti^2/(nN)).

The degrees of freedom of the sum are Satterthwaite's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ablate.report.results import Outcome, Results
from ablate.spaces.metrics import is_accuracy

Weights = Mapping[str, Mapping[str, float]]
"""Row -> metric -> its weight in a contrast."""


@dataclass(frozen=True)
class Noise:
    """One estimate of a variance between trainings.

    Attributes:
        variance: Its share in the variance of the contrast, with the trainings there are.
        per_training: The same for one training a row: divided by n it is the share with n trainings.
        df: Degrees of freedom of the estimate.
        estimates: How many groups of trainings it is pooled over: with n trainings each, df = estimates * (n - 1).
    """

    variance: float
    per_training: float
    df: float
    estimates: int


@dataclass(frozen=True)
class Estimate:
    """What is known of a contrast.

    Attributes:
        effect: The contrast of the rows' means; nan where there are none.
        noise: The seed noise, by estimate, pooled over the table's rows.
        own: The same from the contrast's own rows alone; empty where that is all there is, or where they have too few.
        image_variance: The test-set error's variance, which more seeds do not lower.
        images: How many test images; None where no accuracy is involved or their number is not known.
        counts: Row -> number of trainings used.
        paired_rows: Whether rows shared trainings and were paired.
        paired_images: Whether rows were paired image by image.
        borrowed: Whether the noise between trainings comes from elsewhere.
        problem: Why the contrast can decide nothing; None where it can.
    """

    effect: float
    noise: tuple[Noise, ...] = ()
    own: tuple[Noise, ...] = ()
    image_variance: float = 0.0
    images: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    paired_rows: bool = False
    paired_images: bool = False
    borrowed: bool = False
    problem: str | None = None

    def errors(self, trainings: int | None = None) -> list[tuple[float, float]]:
        """The standard error of the effect and its degrees of freedom, by each way to know the seed noise.

        Args:
            trainings: As it would be with so many trainings a row; None: as it is.

        Returns:
            (standard error, Satterthwaite's degrees of freedom; inf where nothing is estimated), pooled and, where
            there is one, by the rows' own noise.
        """
        return [self._error(noise, trainings) for noise in ((self.noise, self.own) if self.own else (self.noise,))]

    @property
    def exact(self) -> bool:
        """Whether nothing spreads at all, neither trainings nor images."""
        return all(error == 0.0 for error, _ in self.errors())

    def _error(self, noise: Sequence[Noise], trainings: int | None) -> tuple[float, float]:
        shares = [
            (part.variance, part.df)
            if trainings is None
            else (part.per_training / trainings, part.estimates * (trainings - 1.0))
            for part in noise
        ]
        if self.images is not None:
            shares.append((self.image_variance, max(self.images - 1.0, 1.0)))
        total = sum(variance for variance, _ in shares)
        below = sum(variance**2 / df for variance, df in shares)
        return math.sqrt(total), (total**2 / below if below > 0 else math.inf)


@dataclass(frozen=True)
class _Group:
    """Rows of a contrast that share their trainings, each with its outcomes on the trainings they share."""

    rows: tuple[str, ...]
    outcomes: Mapping[str, Sequence[Outcome]]

    @property
    def count(self) -> int:
        return len(self.outcomes[self.rows[0]])

    def contrast(self, weights: Weights) -> NDArray[np.float64]:
        """[n] the contrast's part of this group on each of its trainings."""
        parts = np.stack([_weighted(self.outcomes[row], weights[row]) for row in self.rows])
        return np.asarray(parts.sum(axis=0), dtype=np.float64)


def estimate(weights: Weights, results: Results) -> Estimate:
    """The effect of a contrast and what is known of its error.

    Args:
        weights: Row -> metric -> weight.
        results: The table; its other rows lend their seed noise.

    Returns:
        The estimate; its `problem` says why where it can decide nothing.
    """
    for row, metrics in weights.items():
        if not results.of(row, tuple(metrics)):
            why = f" ({'; '.join(results.reasons(row))})" if results.reasons(row) else ""
            return Estimate(math.nan, problem=f"no {' and '.join(metrics)} for {row!r}{why}")
    groups = _groups(weights, results)
    if groups is None:
        return Estimate(math.nan, problem="the rows share trainings only in part, and none is shared by all of them")
    counts = {row: group.count for group in groups for row in group.rows}
    layouts = [_layouts(group, weights) for group in groups]
    # By chance a few seeds agree closer than the images they disagree on allow; that much noise there is at least.
    least = [sum(_disagreement(z) / z.shape[1] for z in layout.values()) for layout in layouts]
    noise = _seed_noise(groups, least, weights, results)
    own = _own_noise(groups, least, weights) if noise is not None and not results.noise else ()
    variance, images, paired = _image_variance(groups, layouts, weights)
    alone = [row for row, count in counts.items() if count < 2]
    problem = None
    if alone and not results.noise:
        problem = f"one seed never decides by itself, and {alone[0]!r} has one"
    elif noise is None:
        problem = "no row has two seeds, so the noise between trainings is not known"
    return Estimate(
        effect=float(sum(group.contrast(weights).mean() for group in groups)),
        noise=noise or (),
        own=own,
        image_variance=variance,
        images=images,
        counts=counts,
        paired_rows=any(len(group.rows) > 1 for group in groups),
        paired_images=paired,
        borrowed=bool(results.noise),
        problem=problem,
    )


def _groups(weights: Weights, results: Results) -> list[_Group] | None:
    outcomes = {row: {o.training_key: o for o in results.of(row, tuple(metrics))} for row, metrics in weights.items()}
    groups: list[_Group] = []
    for rows in _sharing(outcomes):
        shared = [key for key in outcomes[rows[0]] if all(key in outcomes[row] for row in rows)]
        if not shared:
            return None
        groups.append(_Group(tuple(rows), {row: [outcomes[row][key] for key in shared] for row in rows}))
    return groups


def _sharing(trainings: Mapping[str, Mapping[str, Outcome]]) -> list[list[str]]:
    """Rows in groups that have a training in common, directly or through another row."""
    groups: list[tuple[list[str], set[str]]] = []
    for row, keys in trainings.items():
        joined = [group for group in groups if group[1] & keys.keys()]
        groups = [group for group in groups if group not in joined]
        rows = [member for group in joined for member in group[0]]
        groups.append(([*rows, row], set(keys).union(*(group[1] for group in joined))))
    return [rows for rows, _ in groups]


def _weighted(outcomes: Sequence[Outcome], weights: Mapping[str, float]) -> NDArray[np.float64]:
    return np.array([sum(weight * o.values[metric] for metric, weight in weights.items()) for o in outcomes])


def _pooled(weights: Mapping[str, float], results: Results) -> tuple[float, float, int] | None:
    """The variance of a weighted sum of metrics between trainings: (variance, df, groups it is pooled over)."""
    metrics = tuple(weights)
    if results.noise:
        repeats = [row for row in results.noise if all(metric in row for metric in metrics)]
        if len(repeats) < 2:
            return None
        sums = [sum(weight * row[metric] for metric, weight in weights.items()) for row in repeats]
        return float(np.var(sums, ddof=1)), len(sums) - 1.0, len(results.rows())
    rows = {row: {o.training_key: o for o in results.of(row, metrics)} for row in results.rows()}
    squares, df, estimates = 0.0, 0.0, 0
    for sharing in _sharing({row: found for row, found in rows.items() if len(found) >= 2}):
        # Rows that share their trainings see the same noise: it counts once, as their mean.
        spread = [np.var(_weighted(list(rows[row].values()), weights), ddof=1) for row in sharing]
        free = max(len(rows[row]) for row in sharing) - 1.0
        squares, df, estimates = squares + free * float(np.mean(spread)), df + free, estimates + 1
    return (squares / df, df, estimates) if df else None


def _own(group: _Group, least: float, weights: Weights) -> Noise:
    """The noise that a group's own trainings show."""
    variance = max(float(np.var(group.contrast(weights), ddof=1)), least)
    return Noise(variance / group.count, variance, group.count - 1.0, 1)


def _own_noise(groups: Sequence[_Group], least: Sequence[float], weights: Weights) -> tuple[Noise, ...]:
    """Each group's own noise; none where all are paired, which is their own already, or where one has one training."""
    if all(len(group.rows) > 1 for group in groups) or any(group.count < 2 for group in groups):
        return ()
    return tuple(_own(group, floor, weights) for group, floor in zip(groups, least, strict=True))


def _seed_noise(
    groups: Sequence[_Group], least: Sequence[float], weights: Weights, results: Results
) -> tuple[Noise, ...] | None:
    parts: list[Noise] = []
    pooled: list[tuple[float, float, float, int]] = []
    for group, floor in zip(groups, least, strict=True):
        if len(group.rows) > 1:
            if group.count < 2:
                return None
            parts.append(_own(group, floor, weights))
        else:
            found = _pooled(weights[group.rows[0]], results)
            if found is None:
                return None
            variance = max(found[0], floor)
            pooled.append((variance / group.count, variance, found[1], found[2]))
    if pooled:
        # One estimate serves them all: its degrees of freedom do not add up.
        parts.append(
            Noise(
                sum(share for share, *_ in pooled),
                sum(one for _, one, *_ in pooled),
                min(df for _, _, df, _ in pooled),
                min(estimates for *_, estimates in pooled),
            )
        )
    return tuple(parts)


def _layouts(group: _Group, weights: Weights) -> dict[str, NDArray[np.float64]]:
    """Test set -> [n, N] the contrast's part of this group on each training and image, in points."""
    layouts: dict[str, NDArray[np.float64]] = {}
    for row in group.rows:
        accuracies = {metric: weight for metric, weight in weights[row].items() if is_accuracy(metric)}
        outcomes = group.outcomes[row]
        key = _test_set(outcomes, accuracies)
        if key is None:
            continue
        part = np.sum(
            [100.0 * weight * np.stack([o.correct[metric] for o in outcomes]) for metric, weight in accuracies.items()],
            axis=0,
        )
        layouts[key] = layouts[key] + part if key in layouts else part
    return layouts


def _test_set(outcomes: Sequence[Outcome], metrics: Mapping[str, float]) -> str | None:
    """Which test set all of the arrays are on; None where there are none, some are missing or they are on several."""
    sets = {
        (outcome.test_key, outcome.correct[metric].shape[0]) if metric in outcome.correct else None
        for outcome in outcomes
        for metric in metrics
    }
    only = sets.pop() if len(sets) == 1 else None
    return None if only is None else f"{only[0]} {only[1]}"


def _disagreement(layout: NDArray[np.float64]) -> float:
    """The variance of training x image: what is left of [n, N] after its row and column means; 0 for one training."""
    trainings, images = layout.shape
    if trainings < 2 or images < 2:
        return 0.0
    rest = layout - layout.mean(axis=0) - layout.mean(axis=1, keepdims=True) + layout.mean()
    return float(np.sum(rest**2) / ((trainings - 1) * (images - 1)))


def _image_variance(
    groups: Sequence[_Group], layouts: Sequence[Mapping[str, NDArray[np.float64]]], weights: Weights
) -> tuple[float, int | None, bool]:
    """(variance of the test-set error, fewest images behind it, whether rows were paired by image)."""
    together: defaultdict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for layout in layouts:
        for test_set, values in layout.items():
            together[test_set].append(values)
    variance, sizes = 0.0, []
    for parts in together.values():
        count = parts[0].shape[1]
        spread = float(np.var(np.sum([part.mean(axis=0) for part in parts], axis=0), ddof=1)) if count > 1 else 0.0
        known = sum(_disagreement(part) / part.shape[0] for part in parts)
        variance += max(0.0, spread - known) / count
        sizes.append(count)
    bare = 0
    for group in groups:
        for row in group.rows:
            accuracies = {metric: weight for metric, weight in weights[row].items() if is_accuracy(metric)}
            outcomes = group.outcomes[row]
            images = min((o.images or 0 for o in outcomes), default=0)
            if not accuracies or _test_set(outcomes, accuracies) is not None:
                continue
            bare += 1
            if images:
                # Without the images nothing cancels, and seeds do not average it away: the binomial error is its bound.
                means = {metric: float(np.mean([o.values[metric] for o in outcomes])) for metric in accuracies}
                error = sum(abs(w) * math.sqrt(max(0.0, means[m] * (100.0 - means[m]))) for m, w in accuracies.items())
                variance += error**2 / images
                sizes.append(images)
    rows = sum(1 for group in groups for row in group.rows if any(is_accuracy(m) for m in weights[row]))
    return variance, min(sizes, default=None), bool(rows > 1 and not bare and len(together) == 1)
