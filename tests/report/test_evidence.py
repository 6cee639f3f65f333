"""What a comparison's error is made of, against plain formulas: images, trainings, and what these disagree on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from ablate.report.results import TREND, Outcome
from ablate.report.verdicts.evidence import Weights, estimate, parts_of

N = 200


def outcomes(row: str, columns: dict[str, list[np.ndarray]]) -> list[Outcome]:
    """One outcome for each array of a column."""
    return [
        Outcome(f"{row} {seed}", {name: 100.0 * float(a.mean()) for name, a in found.items()}, found, "test", N)
        for seed, found in enumerate(
            dict(zip(columns, arrays, strict=True)) for arrays in zip(*columns.values(), strict=True)
        )
    ]


def drawn(seed: int, count: int = 3, share: float = 0.5, images: int = N) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).random((count, images)) < share)


def residual(layout: np.ndarray) -> float:
    """The mean square that two-way analysis of variance leaves of [trainings, images]."""
    trainings, images = layout.shape
    left = layout - layout.mean(1, keepdims=True) - layout.mean(0, keepdims=True) + layout.mean()
    return float((left**2).sum()) / ((trainings - 1) * (images - 1))


@pytest.mark.parametrize("count", [2, 3, 8])
def test_what_trainings_disagree_on_is_the_residual_of_two_way_analysis_of_variance(count: int) -> None:
    hard = np.random.default_rng(3).random(N)
    arrays = [np.random.default_rng(seed).random(N) < hard for seed in range(count)]
    parts = parts_of({"a": {"pgd20": 1.0}}, {"a": outcomes("a", {"pgd20": arrays})})
    assert parts is not None
    assert parts.both == pytest.approx(residual(100.0 * np.stack(arrays)) / (count * N))


def test_seeds_that_agree_by_luck_have_the_noise_of_the_images_they_disagree_on() -> None:
    """Three seeds of one accuracy: their variance is none, and one image is not all that they could differ by."""
    right = np.zeros(N, bool)
    right[: N // 2] = True
    arrays = [np.random.default_rng(seed).permutation(right) for seed in range(3)]
    found = estimate({"a": {"pgd20": 1.0}}, {"a": outcomes("a", {"pgd20": arrays})})
    expected = residual(100.0 * np.stack(arrays)) / N
    assert expected > (100.0 / N) ** 2
    assert float(found.noise[0].variance) == pytest.approx(expected)


@pytest.mark.parametrize("epochs", [4, 30])
def test_trends_that_are_alike_have_the_noise_of_one_discordant_pair(epochs: int) -> None:
    order = list(range(epochs))
    step = 1.0 - float(stats.kendalltau(order, [1, 0, *order[2:]]).statistic)
    name = TREND + "energy/ratio"
    rising = [Outcome(f"a {s}", {name: 1.0}, curves={"energy/ratio": [float(e) for e in order]}) for s in range(3)]
    found = estimate({"a": {name: 1.0}}, {"a": rising})
    assert float(found.noise[0].variance) == pytest.approx(step**2)


def test_accuracies_that_are_alike_have_the_noise_of_one_image_of_the_smallest_test_set() -> None:
    sizes = (9000, 100, 400)
    alike = [Outcome(f"a {seed}", {"pgd20": 50.0}, images=size) for seed, size in enumerate(sizes)]
    found = estimate({"a": {"pgd20": 1.0}}, {"a": alike})
    assert float(found.noise[0].variance) == pytest.approx((100.0 / min(sizes)) ** 2)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_columns_whose_images_were_not_kept_never_cancel(sign: float) -> None:
    table = {"a": [dataclasses.replace(o, correct={}) for o in outcomes("a", {"pgd20": drawn(0), "gn": drawn(1)})]}
    values = {name: np.mean([o.values[name] for o in table["a"]]) for name in ("pgd20", "gn")}
    alone = [np.sqrt(value * (100.0 - value) / N) for value in values.values()]
    found = estimate({"a": {"pgd20": 1.0, "gn": sign}}, table)
    assert float(found.image_variance) == pytest.approx(float(sum(alone)) ** 2)


def test_the_test_set_error_is_that_of_the_mean_image_less_what_seeds_disagree_on() -> None:
    hard = np.random.default_rng(3).random(N)
    arrays = [np.random.default_rng(10 + seed).random(N) < hard for seed in range(4)]
    found = estimate({"a": {"pgd20": 1.0}}, {"a": outcomes("a", {"pgd20": arrays})})
    layout = 100.0 * np.stack(arrays)
    expected = (np.var(layout.mean(0), ddof=1) - residual(layout) / 4) / N
    assert float(found.image_variance) == pytest.approx(expected)


def test_the_same_images_in_another_order_are_other_images() -> None:
    """Rows are paired image by image: one whose verdicts are in another order is no less wrong, and is not paired."""
    hard = np.random.default_rng(3).random(N) < 0.5
    arrays = [hard ^ flipped for flipped in drawn(5, share=0.1)]
    weights: Weights = {"a": {"pgd20": 1.0}, "b": {"pgd20": -1.0}}
    rolled = [np.roll(a, 1) for a in arrays]
    one = estimate(weights, {"a": outcomes("a", {"pgd20": arrays}), "b": outcomes("b", {"pgd20": arrays})})
    other = estimate(weights, {"a": outcomes("a", {"pgd20": arrays}), "b": outcomes("b", {"pgd20": rolled})})
    assert float(one.image_variance) == 0.0 < float(other.image_variance)
