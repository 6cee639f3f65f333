"""What every registered attack promises, whatever its method."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablate.attacks import Attack, Ensemble, attack_names, build_attack
from ablate.attacks.base import LATER
from ablate.spaces.specs import MeasurementSpec


def brief(attack: Attack) -> Attack:
    """The same attack with steps for seconds."""
    if isinstance(attack, Ensemble):
        return dataclasses.replace(attack, parts=tuple(map(brief, attack.parts)))
    less = {"steps": 6, "queries": 12, "targets": 2}
    return dataclasses.replace(
        attack, **{name: most for name, most in less.items() if getattr(attack, name, 0) > 3 * most}
    )


@pytest.fixture(params=attack_names())
def attack(request: pytest.FixtureRequest) -> Attack:
    return brief(build_attack(request.param, MeasurementSpec()))


def apply(attack: Attack, network: nn.Module, batch: Any, seed: int = 1, **more: Any) -> Tensor:
    return attack.perturb(network, batch.images, batch.labels, index=batch.index, seed=seed, **more)


def test_it_bears_its_name_is_frozen_and_its_repr_tells_every_field(attack: Attack) -> None:
    first, again = (build_attack(attack.name, MeasurementSpec()) for _ in range(2))
    assert first == again and repr(first) == repr(again)
    assert dataclasses.is_dataclass(attack)
    for field in dataclasses.fields(attack):
        told = f"{field.name}={getattr(attack, field.name)!r}" in repr(attack)
        assert told == (field.metadata.get(LATER) != getattr(attack, field.name))
        if LATER in field.metadata:
            assert f"{field.name}=7" in repr(dataclasses.replace(attack, **{field.name: 7}))
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.name = "another"


def test_images_stay_images_and_within_the_radius_where_there_is_one(attack: Attack, network, batch) -> None:
    perturbed = apply(attack, network, batch)
    assert (perturbed.shape, perturbed.dtype, perturbed.device) == (
        batch.images.shape,
        batch.images.dtype,
        batch.images.device,
    )
    assert perturbed.min() >= 0 and perturbed.max() <= 1 and torch.isfinite(perturbed).all()
    assert not perturbed.requires_grad
    radius = getattr(attack, "eps_255", None)
    if radius is not None:
        assert (perturbed - batch.images).abs().max() <= radius / 255 + 1e-12


def test_it_declares_its_threat_and_stays_in_that_ball(attack: Attack, network, batch) -> None:
    assert attack.threat is not None
    change = (apply(attack, network, batch) - batch.images).abs()
    if attack.threat.norm == "linf":
        assert change.max() <= attack.threat.radius_255 / 255 + 1e-12
    else:
        assert math.isinf(attack.threat.radius_255)


def test_network_images_and_grad_mode_are_left_as_they_were(attack: Attack, network, batch) -> None:
    images, state = batch.images.clone(), {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        apply(attack, network, batch)
        assert not torch.is_grad_enabled()
    assert torch.equal(batch.images, images) and not network.training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_seed_and_index_decide_everything_and_global_random_numbers_nothing(attack: Attack, network, batch) -> None:
    torch.manual_seed(0)
    first, state = apply(attack, network, batch), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(apply(attack, network, batch), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)  # and it has drawn none


def test_an_image_does_not_depend_on_its_batch_unless_it_says_so(attack: Attack, network, batch) -> None:
    whole = apply(attack, network, batch)
    order = torch.arange(len(batch.images) - 1, -1, -1)[:7]
    part = attack.perturb(network, batch.images[order], batch.labels[order], index=batch.index[order], seed=1)
    same = torch.allclose(part, whole[order], rtol=0, atol=1e-12)
    assert same or attack.batch_dependent


def test_clean_logits_that_are_known_change_nothing(attack: Attack, network, batch) -> None:
    with torch.no_grad():
        clean = network(batch.images)
    known = apply(attack, network, batch, clean_logits=clean)
    torch.testing.assert_close(known, apply(attack, network, batch), rtol=0, atol=1e-12)


def test_channels_last_comes_out_as_it_went_in(attack: Attack, network, batch) -> None:
    given = batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))
    perturbed = apply(attack, network, given)
    assert perturbed.is_contiguous(memory_format=torch.channels_last)
    assert ((perturbed - apply(attack, network, batch)).abs() < 1e-7).double().mean() > 0.99


def test_an_attack_that_uses_no_network_asks_none(attack: Attack, network, batch) -> None:
    asked: list[int] = []

    def counting(images: Tensor) -> Tensor:
        asked.append(len(images))
        return network(images)

    attack.perturb(counting, batch.images, batch.labels, index=batch.index, seed=1)
    assert bool(asked) == attack.uses_network
