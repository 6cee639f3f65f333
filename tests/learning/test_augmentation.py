from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from ablate.analysis.bands import band_mask, project
from ablate.analysis.lowpass import filtered
from ablate.core.errors import SpecError
from ablate.learning.augmentation import (
    augmentation_source,
    crop_and_flip,
    get_augmentation,
    patches,
    register_augmentation,
)
from ablate.learning.draws import Draws
from ablate.spaces.specs import AugmentationSpec, MeasurementSpec

CPU = torch.device("cpu")
NAMES = ("mixup", "cutout", "cutmix")


def draws(count: int, seed: int = 0, epoch: int = 1, step: int = 0) -> Draws:
    return Draws(seed, epoch, step, count, CPU)


def batch(count: int, size: int = 8, classes: int = 4) -> tuple[Tensor, Tensor]:
    # Constant images of distinct values above 0: which image a pixel came from can be read off it.
    values = torch.arange(1, count + 1) / (count + 1)
    images = values[:, None, None, None].expand(count, 3, size, size).clone()
    return images, torch.nn.functional.one_hot(torch.arange(count) % classes, classes).float()


def apply(name: str, count: int, beta: float = 1.0, **where: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, targets = batch(count)
    spec = AugmentationSpec(name=name, beta=beta)
    mixed, labels = get_augmentation(name)(images, targets, draws(count, **where), spec)
    return images, targets, mixed, labels


# Crop and flip


def test_every_crop_is_a_window_of_the_padded_image_or_its_mirror() -> None:
    images = torch.arange(1, 6 * 3 * 25 + 1).reshape(6, 3, 5, 5)
    out = crop_and_flip(images, draws(6), padding=2, flip=True)
    assert out.shape == images.shape and out.dtype == images.dtype
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for image, cropped in zip(padded, out, strict=True):
        windows = [image[:, y : y + 5, x : x + 5] for y in range(5) for x in range(5)]
        assert any(torch.equal(cropped, view) for window in windows for view in (window, window.flip(2)))


def test_crops_and_flips_are_uniform_over_all_windows() -> None:
    count = 5000
    images = torch.arange(1, 10).reshape(1, 1, 3, 3).expand(count, 3, 3, 3)
    out = crop_and_flip(images, draws(count), padding=1, flip=True)
    kinds, frequency = torch.unique(out.flatten(1), dim=0, return_counts=True)
    assert len(kinds) == 18
    assert stats.chisquare(frequency.numpy()).pvalue > 1e-4


def test_crop_and_flip_can_be_switched_off_apart() -> None:
    images = torch.rand(40, 3, 4, 4)
    assert crop_and_flip(images, draws(40), padding=0, flip=False) is images
    flipped = crop_and_flip(images, draws(40), padding=0, flip=True)
    same = torch.tensor([torch.equal(a, b) for a, b in zip(images, flipped, strict=True)])
    mirrored = torch.tensor([torch.equal(a.flip(2), b) for a, b in zip(images, flipped, strict=True)])
    assert (same ^ mirrored).all() and same.any() and mirrored.any()


# Mixing


@pytest.mark.parametrize("beta", [1.0, 0.3, 4.0])
def test_proportions_follow_the_beta_distribution(beta: float) -> None:
    drawn = draws(4000).beta("proportion", beta)
    assert drawn.min() >= 0 and drawn.max() <= 1
    assert stats.kstest(drawn.numpy(), stats.beta(beta, beta).cdf).pvalue > 1e-3


def test_extreme_beta_gives_proportions() -> None:
    for beta in (1e-6, 1e6):
        drawn = draws(50).beta("proportion", beta)
        assert torch.isfinite(drawn).all() and drawn.min() >= 0 and drawn.max() <= 1


@settings(max_examples=30)
@given(count=st.integers(2, 17), step=st.integers(0, 1000))
def test_mixup_weighs_pixels_and_labels_alike_and_uses_each_example_once(count: int, step: int) -> None:
    images, targets, mixed, labels = apply("mixup", count, step=step)
    where = draws(count, step=step)
    own, partner = where.beta("mixup proportion", 1.0), where.permutation("mixup partner")
    assert sorted(partner.tolist()) == list(range(count))
    for i, j in enumerate(partner.tolist()):
        torch.testing.assert_close(mixed[i], own[i] * images[i] + (1 - own[i]) * images[j])
        torch.testing.assert_close(labels[i], own[i] * targets[i] + (1 - own[i]) * targets[j])


@settings(max_examples=30)
@given(count=st.integers(2, 17), step=st.integers(0, 1000))
def test_cutmix_labels_are_the_shares_of_pixels_and_each_example_is_used_once(count: int, step: int) -> None:
    images, targets, mixed, labels = apply("cutmix", count, step=step)
    partner = draws(count, step=step).permutation("cutmix partner")
    assert sorted(partner.tolist()) == list(range(count))
    for i, j in enumerate(partner.tolist()):
        own = (mixed[i, 0] == images[i, 0]).float().mean()
        assert ((mixed[i] == images[i]) | (mixed[i] == images[j])).all()
        torch.testing.assert_close(labels[i], own * targets[i] + (1 - own) * targets[j])


def test_cutout_blackens_a_patch_and_keeps_the_very_labels() -> None:
    images, targets, cut, labels = apply("cutout", 50)
    assert labels is targets
    inside, share = patches(images, draws(50), "cutout", 1.0)
    assert (cut[inside.expand_as(cut)] == 0).all() and torch.equal(
        cut[~inside.expand_as(cut)], images[~inside.expand_as(cut)]
    )
    torch.testing.assert_close((cut[:, 0] == 0).float().mean((1, 2)), share)


@pytest.mark.parametrize("size", [8, 9, 32])
def test_patches_are_rectangles_wholly_inside_with_the_drawn_area(size: int) -> None:
    count = 3000
    inside, share = patches(torch.zeros(count, 3, size, size), draws(count), "cutout", 1.0)
    area = draws(count).beta("cutout proportion", 1.0)
    rows, columns = inside[:, 0].any(2).sum(1), inside[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, inside.sum((1, 2, 3)))
    torch.testing.assert_close(share, rows * columns / size**2)
    # Half a column of the patch's height is as close as whole pixels come, on top of a height rounded to none.
    assert (share - area).abs().max() <= 0.5 / size + 1e-6
    assert (rows - columns).abs().max() <= 2
    assert (inside[:, 0].float().mean(0) > 0).all()


def test_no_patch_and_a_whole_patch() -> None:
    images = torch.zeros(3, 3, 8, 8)

    class Given(Draws):
        def beta(self, purpose: str, parameter: float) -> Tensor:
            return torch.tensor([0.0, 1.0, 0.25])

    inside, share = patches(images, Given(0, 1, 0, 3, CPU), "cutout", 1.0)
    assert share.tolist() == [0.0, 1.0, 0.25] and inside.flatten(1).sum(1).tolist() == [0, 64, 16]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_step_replays_and_any_other_differs(name: str) -> None:
    first = apply(name, 9, seed=3, epoch=2, step=5)[2]
    assert torch.equal(first, apply(name, 9, seed=3, epoch=2, step=5)[2])
    for other in ({"seed": 4}, {"epoch": 3}, {"step": 6}):
        assert not torch.equal(first, apply(name, 9, **({"seed": 3, "epoch": 2, "step": 5} | other))[2])


@pytest.mark.parametrize("name", NAMES)
def test_beta_changes_the_batch(name: str) -> None:
    assert not torch.equal(apply(name, 9, beta=1.0)[2], apply(name, 9, beta=5.0)[2])


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    for name in NAMES:
        apply(name, 5, beta=0.5)
    crop_and_flip(torch.zeros(4, 3, 8, 8), draws(4), padding=2, flip=True)
    assert torch.equal(before, torch.get_rng_state())


# Names


@pytest.mark.parametrize("size", [8, 16])
def test_filters_leave_the_bands_that_they_are_named_after(size: int) -> None:
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(3)

    def left(name: str, **degrees: int) -> Tensor:
        spec = AugmentationSpec.model_validate({"name": name, **degrees})
        found, labels = get_augmentation(name)(images, targets, draws(3), spec)
        assert labels is targets  # hard labels
        again, _ = get_augmentation(name)(found, targets, draws(3, seed=1), spec)
        torch.testing.assert_close(again, found)
        return found

    low, high = left("lowpass", degree=3), left("highpass", degree=3)
    torch.testing.assert_close(low, project(images, band_mask(size, 0, 1)))
    torch.testing.assert_close(high, project(images, band_mask(size, 2, size // 2)))
    torch.testing.assert_close(low + high, images)
    stopped = left("bandstop", degree=3, outer_degree=5)
    torch.testing.assert_close(stopped, images - project(images, band_mask(size, 2, 2)))
    measured = MeasurementSpec(bandstop_degrees=(3, 5)).filter
    assert torch.equal(stopped, filtered(images, measured))  # measured through the same filter


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"name": "lowpass"}, "expected an odd training.augmentation.degree with training.augmentation.name: lowpass"),
        ({"name": "highpass", "degree": 4}, "alike in both signs of a frequency, got 4"),
        ({"name": "bandstop", "degree": 5}, "expected an odd training.augmentation.outer_degree"),
        ({"name": "bandstop", "degree": 5, "outer_degree": 5}, "above training.augmentation.degree (5), between"),
    ],
)
def test_a_filter_without_a_band_is_refused_in_one_line(asked: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        AugmentationSpec.model_validate(asked)
    assert told in str(refused.value)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"training\.augmentation\.name.*'cutmx'; did you mean 'cutmix'\?"):
        get_augmentation("cutmx")


def test_a_users_augmentation_is_registered_with_its_source() -> None:
    @register_augmentation("test-negative")
    def negative(images: Tensor, targets: Tensor, draws: Draws, spec: AugmentationSpec) -> tuple[Tensor, Tensor]:
        return 1 - images, targets

    assert get_augmentation("test-negative") is negative
    assert augmentation_source("test-negative") and augmentation_source("mixup") is None
