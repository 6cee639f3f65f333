"""How far a comparison's numbers can be trusted: its effect, and what its error is made of.

A contrast is a weighted sum of (row, metric) means, e.g. row A minus row B. It is judged by its own rows and nothing
else. Its error has two sources:

- *Seed noise.* The variance between trainings, of each row by itself; rows that share their trainings are one group,
  whose contrast is taken training by training. Equal seeds of different trainings pair nothing.
- *Test-set error.* The variance over the test images of the contrast of per-image correctness, averaged over seeds;
  rows on the same test set are paired image by image, so what is hard for both cancels (as in McNemar's test). What the
  seeds disagree on image by image is in the seed noise already and is taken out (two-way random effects: Var = s_t^2/n
  + s_i^2/N + s_ti^2/(nN)).

A variance is never taken for less than the metric can resolve: one test image, or one discordant pair of epochs.

Every number here may be an array over many tables at once: axes before those of trainings and images are such. A
report has none; `benchmarks/verdicts.py` judges thousands of simulated tables by this very code.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ablate.report.names import column_name
from ablate.report.results import TREND, Outcome
from ablate.spaces.metrics import is_accuracy

Weights = Mapping[str, Mapping[str, float]]
"""Row -> metric -> its weight in a contrast."""

Table = Mapping[str, Sequence[Outcome]]
"""Row -> its outcomes in the order of the seeds."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """The noise between the trainings of one group of a contrast.

    Attributes:
        variance: Between two trainings of the group; divided by their number it is the share in the effect's variance.
        trainings: How many the group has.
        df: Degrees of freedom of the estimate.
    """

    variance: Array
    trainings: int
    df: float

    def share(self, trainings: int | None = None) -> Array:
        """Its part of the effect's variance, with so many trainings; none: with those there are."""
        return np.asarray(self.variance / (trainings or self.trainings))

    def free(self, trainings: int | None = None, *, fixed: bool = False) -> float:
        """Degrees of freedom with so many trainings; none, or where they come from elsewhere: as they are."""
        return self.df if trainings is None or fixed else trainings - 1.0


@dataclass(frozen=True)
class Estimate:
    """What is known of a contrast.

    Attributes:
        effect: The contrast of the rows' means; nan where there are none.
        noise: The seed noise, group by group.
        image_variance: The test-set error's variance, which more seeds do not lower.
        images: How many test images; None where no accuracy is involved or their number is not known.
        same: Where the rows are the same measurements of the same trainings: there is no error.
        mute: Where a row is identical in every training and its metric has no resolution: its noise is not known.
        mute_row: Which row that is; None where none is.
        counts: Row -> number of trainings used.
        paired_rows: Whether rows shared trainings and were paired.
        paired_images: Whether rows were paired image by image.
        borrowed: Whether the noise between trainings comes from elsewhere.
        problem: Why the contrast can decide nothing; None where it can.
    """

    effect: Array
    noise: tuple[Noise, ...] = ()
    image_variance: Array = field(default_factory=lambda: np.zeros(()))
    images: int | None = None
    same: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((), np.bool_))
    mute: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((), np.bool_))
    mute_row: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    paired_rows: bool = False
    paired_images: bool = False
    borrowed: bool = False
    problem: str | None = None

    def variance(self, trainings: int | None = None) -> Array:
        """Of the effect; as it would be with so many trainings a row, or as it is."""
        return np.asarray(sum((part.share(trainings) for part in self.noise), self.image_variance))


@dataclass(frozen=True)
class _Group:
    """Rows of a contrast that share their trainings, each with its outcomes on the trainings they share."""

    rows: tuple[str, ...]
    outcomes: Mapping[str, Sequence[Outcome]]

    @property
    def count(self) -> int:
        return len(self.outcomes[self.rows[0]])

    def contrast(self, weights: Weights) -> Array:
        """[..., n] the contrast's part of this group on each of its trainings."""
        parts = np.stack([_weighted(self.outcomes[row], weights[row]) for row in self.rows])
        return np.asarray(parts.sum(axis=0), dtype=np.float64)


def readable(metric: str) -> str:
    """A metric's name as people read it; a trend is called as what it is of."""
    return column_name(metric.removeprefix(TREND))


def estimate(weights: Weights, table: Table, borrowed: Sequence[Mapping[str, float]] = ()) -> Estimate:
    """The effect of a contrast and what is known of its error.

    Args:
        weights: Row -> metric -> weight.
        table: The contrast's rows with the outcomes that count, each with every metric.
        borrowed: Repetitions of one training from elsewhere, whose spread stands for the seed noise; none: the
            outcomes' own.

    Returns:
        The estimate; its `problem` says why where it can decide nothing.
    """
    for row, metrics in weights.items():
        if not table.get(row):
            return Estimate(np.asarray(math.nan), problem=f"no {' and '.join(map(readable, metrics))} for {row!r}")
    groups = _groups(weights, table)
    if groups is None:
        problem = "the rows share trainings only in part, and none is shared by all of them"
        return Estimate(np.asarray(math.nan), problem=problem)
    counts = {row: group.count for group in groups for row in group.rows}
    layouts = [_layouts(group, weights) for group in groups]
    parts = [group.contrast(weights) for group in groups]
    effect = np.asarray(np.sum([part.mean(axis=-1) for part in parts], axis=0))
    variance, images, paired = _image_variance(groups, layouts, weights)
    alone = [row for row, count in counts.items() if count < 2]
    noise: tuple[Noise, ...] = ()
    same = mute = np.zeros(effect.shape, np.bool_)
    mute_row: str | None = None
    trouble: str | None = None
    if borrowed:
        found = _borrowed(groups, weights, borrowed)
        noise = (found,) if found is not None else ()
        trouble = None if noise else "the noise between trainings is not known"
    else:
        if alone:
            trouble = f"one seed never decides by itself, and {alone[0]!r} has one"
        noise = _own_noise(groups, parts, weights, layouts)
        for group, each in zip(groups, noise, strict=False):
            silent = np.asarray(each.variance <= 0.0)
            mute = mute | silent
            if silent.any() and mute_row is None:
                mute_row = group.rows[0]
        if len(groups) == 1 and len(groups[0].rows) > 1:
            # The very same numbers of the very same networks: no luck is left that could make them differ.
            same = np.all(parts[0] == 0.0, axis=-1) & _same_images(groups[0], layouts[0], weights)
            mute = mute & ~same
    return Estimate(
        effect=effect,
        noise=noise,
        image_variance=variance,
        images=images,
        same=np.broadcast_to(same, effect.shape),
        mute=np.broadcast_to(mute, effect.shape),
        mute_row=mute_row,
        counts=counts,
        paired_rows=any(len(group.rows) > 1 for group in groups),
        paired_images=paired,
        borrowed=bool(borrowed),
        problem=trouble,
    )


@dataclass(frozen=True)
class Parts:
    """What the variance of an effect is made of: trainings, test images, and what trainings disagree on by image."""

    seeds: float
    images: float
    both: float
    test_images: int

    @property
    def total(self) -> float:
        """Of the effect."""
        return self.seeds + self.images + self.both


def parts_of(weights: Weights, table: Table) -> Parts | None:
    """The parts of one contrast's variance; arguments as of `estimate`.

    Returns:
        None where a row has fewer than two trainings, or nothing was measured on images.
    """
    found = estimate(weights, table)
    if found.problem is not None or not found.noise or found.images is None:
        return None
    both = 0.0
    for group in _groups(weights, table) or []:
        layouts = _layouts(group, weights)
        both += sum(float(_disagreement(z)) / (z.shape[-2] * z.shape[-1]) for z in layouts.values())
    trainings = sum(float(part.share()) for part in found.noise)
    return Parts(max(0.0, trainings - both), float(found.image_variance), min(both, trainings), found.images)


def _same_images(group: _Group, layouts: Mapping[str, Array], weights: Weights) -> NDArray[np.bool_]:
    """Where paired rows are right on the same images; equal counts of images that one did not keep are not that."""
    for row in group.rows:
        accuracies = {metric: weight for metric, weight in weights[row].items() if is_accuracy(metric)}
        if accuracies and _test_set(group.outcomes[row], accuracies) is None:
            return np.zeros((), np.bool_)
    return np.asarray(np.all([np.all(z == 0.0, axis=(-2, -1)) for z in layouts.values()], axis=0))


def _groups(weights: Weights, table: Table) -> list[_Group] | None:
    outcomes = {row: {o.training_key: o for o in table[row]} for row in weights}
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


def _weighted(outcomes: Sequence[Outcome], weights: Mapping[str, float]) -> Array:
    """[..., n] the weighted sum of metrics of each outcome."""
    sums = [np.asarray(sum(weight * o.values[metric] for metric, weight in weights.items())) for o in outcomes]
    return np.stack(sums, axis=-1)


def _borrowed(groups: Sequence[_Group], weights: Weights, repeats: Sequence[Mapping[str, float]]) -> Noise | None:
    """Noise from elsewhere: one estimate serves all groups, so its degrees of freedom do not add up."""
    total, df = 0.0, math.inf
    for group in groups:
        for row in group.rows:
            whole = [each for each in repeats if all(metric in each for metric in weights[row])]
            if len(whole) < 2:
                return None
            sums = [sum(weight * each[metric] for metric, weight in weights[row].items()) for each in whole]
            total += float(np.var(sums, ddof=1)) / group.count
            df = min(df, len(sums) - 1.0)
    return Noise(np.asarray(total), 1, df)


def _own_noise(
    groups: Sequence[_Group], parts: Sequence[Array], weights: Weights, layouts: Sequence[Mapping[str, Array]]
) -> tuple[Noise, ...]:
    """Each group's own noise; where one has a single training, which decides nothing, it is taken for the other's."""
    seen: list[Array | None] = [None] * len(groups)
    for index, (group, part, layout) in enumerate(zip(groups, parts, layouts, strict=True)):
        if group.count > 1:
            seen[index] = np.maximum(np.var(part, axis=-1, ddof=1), _floor(group, weights, layout))
    known = [variance for variance in seen if variance is not None]
    if not known:
        return ()
    return tuple(
        Noise(variance if variance is not None else known[0], group.count, max(group.count - 1.0, 1.0))
        for group, variance in zip(groups, seen, strict=True)
    )


def _floor(group: _Group, weights: Weights, layouts: Mapping[str, Array]) -> Array:
    """The least variance between trainings that a group's numbers can show, 0 where a metric has no resolution.

    One step of each metric; and by chance a few seeds agree closer than the images they disagree on allow, so that
    much noise there is at least.
    """
    steps = 0.0
    for row in group.rows:
        for metric, weight in weights[row].items():
            resolution = _resolution(metric, group.outcomes[row])
            if resolution is None:
                return np.zeros(())
            steps += (weight * resolution) ** 2
    disagreement = [_disagreement(z) / z.shape[-1] for z in layouts.values()]
    return np.asarray(np.maximum(steps, np.sum(disagreement, axis=0)))


def _resolution(metric: str, outcomes: Sequence[Outcome]) -> float | None:
    """The smallest step of a metric: one image of an accuracy, one discordant pair of a trend; None without any."""
    if is_accuracy(metric):
        size = min(_images_of(metric, outcome) for outcome in outcomes)
        return 100.0 / size if size else None
    if metric.startswith(TREND):
        epochs = [len(o.curves[curve]) for o in outcomes for curve in [metric.removeprefix(TREND)] if curve in o.curves]
        return 4.0 / (min(epochs) * (min(epochs) - 1)) if epochs else None  # tau falls by 2 of E(E - 1)/2 pairs
    return None


def _images_of(metric: str, outcome: Outcome) -> int:
    """On how many images an accuracy was measured, by its own ones where they were kept; 0 where nothing tells."""
    return outcome.correct[metric].shape[-1] if metric in outcome.correct else outcome.images or 0


def _layouts(group: _Group, weights: Weights) -> dict[str, Array]:
    """Test set -> [..., n, N] the contrast's part of this group on each training and image, in points."""
    layouts: dict[str, Array] = {}
    for row in group.rows:
        accuracies = {metric: weight for metric, weight in weights[row].items() if is_accuracy(metric)}
        outcomes = group.outcomes[row]
        key = _test_set(outcomes, accuracies)
        if key is None:
            continue
        stacked = {metric: np.stack([o.correct[metric] for o in outcomes], axis=-2) for metric in accuracies}
        parts = [100.0 * weight * stacked[metric] for metric, weight in accuracies.items()]
        part = np.asarray(np.sum(parts, axis=0), dtype=np.float64)
        layouts[key] = layouts[key] + part if key in layouts else part
    return layouts


def _test_set(outcomes: Sequence[Outcome], metrics: Mapping[str, float]) -> str | None:
    """Which test set all of the arrays are on; None where there are none, some are missing or they are on several."""
    sets = {
        (outcome.test_key, outcome.correct[metric].shape[-1]) if metric in outcome.correct else None
        for outcome in outcomes
        for metric in metrics
    }
    only = sets.pop() if len(sets) == 1 else None
    return None if only is None else f"{only[0]} {only[1]}"


def _disagreement(layout: Array) -> Array:
    """The variance of training x image: what is left of [..., n, N] after its row and column means."""
    trainings, images = layout.shape[-2:]
    if trainings < 2 or images < 2:
        return np.zeros(layout.shape[:-2])
    # Sums of squares, rather than the residuals themselves: arrays of many tables are large.
    squares = np.einsum("...ij,...ij->...", layout, layout)
    rows, columns = layout.mean(axis=-1), layout.mean(axis=-2)
    grand = rows.mean(axis=-1)
    rest = (
        squares - images * np.sum(rows**2, axis=-1) - trainings * np.sum(columns**2, axis=-1)
        + trainings * images * grand**2
    )  # fmt: skip
    return np.asarray(np.maximum(rest, 0.0) / ((trainings - 1) * (images - 1)))


def _image_variance(
    groups: Sequence[_Group], layouts: Sequence[Mapping[str, Array]], weights: Weights
) -> tuple[Array, int | None, bool]:
    """(variance of the test-set error, fewest images behind it, whether rows were paired by image)."""
    together: defaultdict[str, list[Array]] = defaultdict(list)
    for layout in layouts:
        for test_set, values in layout.items():
            together[test_set].append(values)
    variance: Array = np.zeros(())
    sizes = []
    for parts in together.values():
        count = parts[0].shape[-1]
        means = np.sum([part.mean(axis=-2) for part in parts], axis=0)
        spread = np.var(means, axis=-1, ddof=1) if count > 1 else np.zeros(means.shape[:-1])
        known = np.sum([_disagreement(part) / part.shape[-2] for part in parts], axis=0)
        variance = variance + np.maximum(0.0, spread - known) / count
        sizes.append(count)
    bare = 0
    for group in groups:
        for row in group.rows:
            accuracies = {metric: weight for metric, weight in weights[row].items() if is_accuracy(metric)}
            outcomes = group.outcomes[row]
            if not accuracies or _test_set(outcomes, accuracies) is not None:
                continue
            bare += 1
            counts = {metric: min(_images_of(metric, o) for o in outcomes) for metric in accuracies}
            if all(counts.values()):
                # Without the images nothing cancels, and seeds do not average it away: the binomial error is its bound.
                error: Array = np.zeros(())
                for metric, weight in accuracies.items():
                    mean = np.mean([o.values[metric] for o in outcomes], axis=0)
                    error = error + abs(weight) * np.sqrt(np.maximum(0.0, mean * (100.0 - mean)) / counts[metric])
                variance = variance + error**2
                sizes.append(min(counts.values()))
    rows = sum(1 for group in groups for row in group.rows if any(is_accuracy(m) for m in weights[row]))
    return np.asarray(variance), min(sizes, default=None), bool(rows > 1 and not bare and len(together) == 1)
