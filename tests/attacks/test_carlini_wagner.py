from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from ablate.attacks.base import build_attack
from ablate.attacks.carlini_wagner import CarliniWagner, ExactCarliniWagner, floored_margin, true_margin
from ablate.core.errors import SpecError
from ablate.spaces.specs import MeasurementSpec

BOTH = [CarliniWagner(), ExactCarliniWagner()]


def apply(attack, network, batch, seed: int = 0) -> Tensor:
    return attack.perturb(network, batch.images, batch.labels, index=batch.index, seed=seed)


def fooled(network, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images).argmax(1) != labels


def linear(weight: Tensor, shift: float = 0.0):
    return lambda x: x.flatten(1) @ weight.T + shift


@pytest.fixture
def two_classes():
    """A linear network of two classes, images inside the box near its boundary, each labelled as it is classified."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 48, generator=generator, dtype=torch.float64)
    images = 0.3 + 0.4 * torch.rand(8, 3, 4, 4, generator=generator, dtype=torch.float64)
    return weight, images, linear(weight)(images).argmax(1)


@pytest.mark.parametrize("attack", BOTH, ids=repr)
def test_what_comes_out_is_misclassified_or_the_image_itself(attack, network, batch) -> None:
    perturbed = apply(attack, network, batch)
    same = (perturbed == batch.images).flatten(1).all(1)
    assert (fooled(network, perturbed, batch.labels) | same).all()
    assert (~same).any()
    assert perturbed.min() >= 0 and perturbed.max() <= 1 and not perturbed.requires_grad


@pytest.mark.parametrize("attack", BOTH, ids=repr)
def test_without_a_margin_or_without_steps_it_is_the_identity(attack, network, batch) -> None:
    kept = ~fooled(network, batch.images, batch.labels)
    for changed in (dataclasses.replace(attack, c=0.0), dataclasses.replace(attack, steps=0)):
        assert torch.equal(apply(changed, network, batch)[kept], batch.images[kept])


def test_one_exact_step_in_closed_form() -> None:
    """Adam's first step is learning_rate * g / (|g| + 1e-8); the distance's gradient at the image is 0."""
    weight = torch.tensor([[1.0, -2.0, 3.0, 0.5], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    images = torch.tensor([0.5, 0.4, 0.5, 0.6], dtype=torch.float64).reshape(1, 1, 2, 2)
    offset = torch.tensor([-(weight[0] @ images.flatten()) + 1e-3, 0.0], dtype=torch.float64)

    def network(x: Tensor) -> Tensor:
        return x.flatten(1) @ weight.T + offset

    label = torch.tensor([0])
    attack = ExactCarliniWagner(steps=1, learning_rate=0.1)
    perturbed = attack.perturb(network, images, label, index=torch.arange(1), seed=0)
    w = torch.atanh(2 * images - 1)
    slope = weight[0].reshape(1, 1, 2, 2) * 0.5 * (1 - torch.tanh(w) ** 2)
    expected = 0.5 * (torch.tanh(w - 0.1 * slope / (slope.abs() + 1e-8)) + 1)
    assert fooled(network, expected, label).all()
    torch.testing.assert_close(perturbed, expected, rtol=0, atol=1e-12)
    # cw20 takes the same step and never looks at it.
    same = CarliniWagner(steps=1, learning_rate=0.1).perturb(network, images, label, index=torch.arange(1), seed=0)
    assert torch.equal(same, images)


def test_the_last_update_is_judged_by_the_exact_attack_alone(two_classes) -> None:
    weight, images, labels = two_classes
    for steps in range(1, 8):
        given_ = (linear(weight), images, labels)
        exact = ExactCarliniWagner(steps=steps, c=30.0).perturb(*given_, index=labels, seed=0)
        habit = CarliniWagner(steps=steps + 1, c=30.0).perturb(linear(weight, 100.0), *given_[1:], index=labels, seed=0)
        # With positive logits and pixels inside the box, that one judgement is all that tells the two apart.
        torch.testing.assert_close(exact, habit, rtol=0, atol=1e-9)


def test_adding_a_number_to_all_logits_stalls_only_the_habit(make_network, make_batch) -> None:
    plain, sunk = make_network(), make_network(shift=-100.0)
    batch = make_batch(plain)
    assert (sunk(batch.images) < 0).all()
    right = ~fooled(sunk, batch.images, batch.labels)
    assert right.any()
    assert torch.equal(apply(CarliniWagner(), sunk, batch)[right], batch.images[right])
    exact = apply(ExactCarliniWagner(), sunk, batch)
    torch.testing.assert_close(exact, apply(ExactCarliniWagner(), plain, batch), rtol=0, atol=1e-6)
    assert fooled(sunk, exact, batch.labels)[right].any()


def test_pixels_at_the_edge_move_only_in_the_exact_attack(network, batch) -> None:
    edge = (batch.images == 0) | (batch.images == 1)
    assert edge.any()
    assert torch.equal(apply(CarliniWagner(), network, batch)[edge], batch.images[edge])
    right = ~fooled(network, batch.images, batch.labels)
    attack = ExactCarliniWagner(c=10.0, learning_rate=0.05)
    moved = (apply(attack, network, batch) - batch.images).abs()[right]
    assert (moved[edge[right]] > 0.5 / 255 + 1e-4).any()


@pytest.mark.parametrize("kind", [CarliniWagner, ExactCarliniWagner])
def test_only_the_habit_depends_on_the_batch(kind, network, batch) -> None:
    attack = kind(c=0.1, learning_rate=0.05)  # fast enough for the summed cost to rise
    whole = apply(attack, network, batch)
    alone = torch.cat(
        [apply(attack, network, type(batch)(*(x[place : place + 1] for x in batch))) for place in batch.index]
    )
    assert torch.allclose(alone, whole, rtol=0, atol=1e-9) == (not attack.batch_dependent)


@pytest.mark.parametrize(
    ("attack", "changes"),
    [
        (CarliniWagner(c=0.1, learning_rate=0.05), {"c": 20.0, "kappa": 3.0, "steps": 7, "learning_rate": 0.02}),
        (
            ExactCarliniWagner(c=0.1, learning_rate=0.05),
            {"c": 20.0, "kappa": 3.0, "steps": 7, "learning_rate": 0.02, "edge_255": 4.0},
        ),
    ],
    ids=repr,
)
def test_every_option_changes_the_result_and_the_repr(attack, changes, network, batch) -> None:
    assert set(changes) | {"name"} == {field.name for field in dataclasses.fields(attack)}
    before = apply(attack, network, batch)
    for name, value in changes.items():
        changed = dataclasses.replace(attack, **{name: value})
        assert not torch.allclose(apply(changed, network, batch), before, atol=1e-9), name
        assert f"{name}={value!r}" in repr(changed)


@pytest.mark.parametrize("name", ["cw20", "cw20_exact"])
def test_the_measurement_sets_the_options(name) -> None:
    attack = build_attack(name, MeasurementSpec(cw_c=2.0, cw_kappa=1.0, cw_learning_rate=0.1))
    assert (attack.c, attack.kappa, attack.learning_rate, attack.steps) == (2.0, 1.0, 0.1, 20)


def test_margins() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [-3.0, -1.0, -2.0], [1.0, 4.0, -1.0]])
    labels = torch.tensor([0, 0, 0])
    assert true_margin(logits, labels).tolist() == [1.0, -2.0, -3.0]
    assert floored_margin(logits, labels).tolist() == [1.0, 0.0, -3.0]


def test_without_an_early_stop_it_never_waits_for_the_device(batch) -> None:
    meta = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).to("meta")
    images, labels = batch.images.float().to("meta"), batch.labels.to("meta")
    assert ExactCarliniWagner().perturb(meta, images, labels, index=labels, seed=0).shape == images.shape


def test_a_stopped_batch_costs_nothing_more(batch) -> None:
    asked = []

    class Counting(nn.Module):
        def forward(self, x):
            asked.append(len(x))
            return x.flatten(1)[:, :10]

    labels = torch.zeros(len(batch.images), dtype=torch.int64)
    away = CarliniWagner(learning_rate=50.0)  # overshoots: the cost rises at once
    away.perturb(Counting(), batch.images.clamp(0.2, 0.8), labels, index=labels, seed=0)
    assert len(asked) < away.steps


@pytest.mark.parametrize("kind", [CarliniWagner, ExactCarliniWagner])
def test_negative_hyperparameters_are_refused(kind) -> None:
    with pytest.raises(SpecError, match="kappa of at least 0"):
        kind(kappa=-1.0)
