from __future__ import annotations

import pytest
import torch

from ablate.attacks.base import build_attack
from ablate.attacks.noise import GaussianNoise, Natural
from ablate.core.errors import SpecError
from ablate.spaces.specs import MeasurementSpec


def noisy(std: float, images: torch.Tensor, seed: int = 0, first: int = 0) -> torch.Tensor:
    labels = torch.zeros(len(images), dtype=torch.int64)
    index = torch.arange(first, first + len(images))
    return GaussianNoise(std=std).perturb(lambda x: x, images, labels, index=index, seed=seed)


def test_natural_returns_the_very_tensor(network, batch) -> None:
    assert Natural().perturb(network, batch.images, batch.labels, index=batch.index, seed=0) is batch.images
    assert not Natural.uses_network and not GaussianNoise.uses_network


def test_noise_has_its_deviation_and_stays_in_the_box(batch) -> None:
    difference = noisy(0.05, torch.full((50, 3, 16, 16), 0.5)) - 0.5
    assert difference.std().item() == pytest.approx(0.05, rel=0.02)
    assert difference.mean().item() == pytest.approx(0.0, abs=1e-3)
    perturbed = noisy(0.5, batch.images)
    assert perturbed.min() == 0 and perturbed.max() == 1


def test_no_noise_is_the_identity(batch) -> None:
    assert torch.equal(noisy(0.0, batch.images), batch.images)


def test_noise_depends_on_seed_and_index_and_nothing_else(batch) -> None:
    whole = noisy(0.1, batch.images)
    assert torch.equal(noisy(0.1, batch.images), whole)
    assert torch.equal(noisy(0.1, batch.images[5:9], first=5), whole[5:9])
    assert not torch.equal(noisy(0.1, batch.images, seed=1), whole)
    assert not torch.equal(noisy(0.1, batch.images, first=1), whole)
    assert not torch.equal(noisy(0.2, batch.images), whole)


def test_the_measurement_sets_the_deviation_and_the_repr_shows_it() -> None:
    assert repr(build_attack("gn", MeasurementSpec(noise_std=0.25))) == "GaussianNoise(name='gn', std=0.25)"
    assert repr(build_attack("natural", MeasurementSpec())) == "Natural(name='natural')"


def test_a_negative_deviation_is_refused() -> None:
    with pytest.raises(SpecError, match="std of at least 0, got -1"):
        GaussianNoise(std=-1.0)
