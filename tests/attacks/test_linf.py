from __future__ import annotations

import dataclasses

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ablate.attacks.base import Attack, build_attack
from ablate.attacks.linf import BIM, FGSM, PGD, TPGD, ascend, cross_entropy_of, divergence_from, uniform_start
from ablate.core.errors import SpecError
from ablate.spaces.specs import MeasurementSpec

ATTACKS = [FGSM(), PGD(steps=5), PGD(steps=5, random_start=False), BIM(steps=5), TPGD(steps=5)]
SEED = 1


def apply(attack: Attack, network, batch, seed: int = SEED) -> Tensor:
    return attack.perturb(network, batch.images, batch.labels, index=batch.index, seed=seed)


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
@pytest.mark.parametrize("eps_255", [1.0, 8.0, 300.0])
def test_stays_in_the_ball_and_in_the_box(attack, eps_255, network, batch) -> None:
    attack = dataclasses.replace(attack, eps_255=eps_255)
    perturbed = apply(attack, network, batch)
    assert ((perturbed - batch.images).abs() <= eps_255 / 255 + 1e-12).all()
    assert perturbed.min() >= 0 and perturbed.max() <= 1
    assert not perturbed.requires_grad


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_eps_zero_is_the_identity(attack, network, batch) -> None:
    assert torch.equal(apply(dataclasses.replace(attack, eps_255=0.0), network, batch), batch.images)


@pytest.mark.parametrize("attack", [FGSM(), PGD(), PGD(random_start=False), BIM()], ids=repr)
def test_closed_form_on_a_linear_network(attack) -> None:
    """With two classes cross-entropy's gradient is p (w_other - w_label): its sign never changes."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 48, generator=generator, dtype=torch.float64)
    images = torch.rand(6, 3, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    away = (weight[1 - labels] - weight[labels]).reshape(images.shape).sign()
    expected = (images + 8 / 255 * away).clamp(0, 1)
    perturbed = attack.perturb(lambda x: x.flatten(1) @ weight.T, images, labels, index=torch.arange(6), seed=SEED)
    torch.testing.assert_close(perturbed, expected, rtol=0, atol=1e-12)


def test_tpgd_leaves_the_clean_prediction_in_a_straight_line_on_a_linear_network() -> None:
    """With two classes the divergence grows in |w (x' - x)|: each image goes to one of two corners of its ball."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 48, generator=generator, dtype=torch.float64)
    images = 0.2 + 0.6 * torch.rand(6, 3, 4, 4, generator=generator, dtype=torch.float64)
    perturbed = TPGD().perturb(
        lambda x: x.flatten(1) @ weight.T,
        images,
        torch.zeros(6, dtype=torch.int64),
        index=torch.arange(6),
        seed=SEED,
    )
    corner = ((perturbed - images) * 255 / 8 * (weight[1] - weight[0]).reshape(3, 4, 4).sign()).flatten(1)
    torch.testing.assert_close(corner.abs(), torch.ones_like(corner))
    assert ((corner > 0).all(1) | (corner < 0).all(1)).all()


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_seed_and_index_decide_everything_random(attack, network, batch) -> None:
    assert torch.equal(apply(attack, network, batch), apply(attack, network, batch))
    if isinstance(attack, TPGD) or (isinstance(attack, PGD) and attack.random_start):
        first = apply(attack, network, batch)
        assert not torch.equal(first, apply(attack, network, batch, seed=SEED + 1))
        assert not torch.equal(first, apply(attack, network, batch._replace(index=batch.index + 1)))
        assert not torch.equal(first, apply(dataclasses.replace(attack, name="other"), network, batch))


@pytest.mark.parametrize(
    ("attack", "changes"),
    [
        (FGSM(), {"eps_255": 4.0}),
        (PGD(steps=5), {"eps_255": 4.0, "step_255": 1.0, "steps": 2, "random_start": False}),
        (BIM(steps=5), {"eps_255": 4.0, "step_255": 1.0, "steps": 2}),
        (TPGD(steps=5), {"eps_255": 4.0, "step_255": 1.0, "steps": 2, "start_std": 0.01}),
    ],
    ids=repr,
)
def test_every_option_changes_the_result_and_the_repr(attack, changes, network, batch) -> None:
    assert set(changes) | {"name"} == {field.name for field in dataclasses.fields(attack)} - {"restarts"}
    before = apply(attack, network, batch)
    for name, value in changes.items():
        changed = dataclasses.replace(attack, **{name: value})
        assert not torch.allclose(apply(changed, network, batch), before), name
        assert f"{name}={value!r}" in repr(changed)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("fgsm", {"eps_255": 4.0}),
        ("pgd20", {"eps_255": 4.0, "step_255": 1.0}),
        ("bim20", {"eps_255": 4.0, "step_255": 1.0}),
        ("tpgd20", {"eps_255": 4.0, "step_255": 1.0}),
    ],
)
def test_the_measurement_sets_the_columns_options(name, changes) -> None:
    for field, value in changes.items():
        assert getattr(build_attack(name, MeasurementSpec(**{field: value})), field) == value
    assert getattr(build_attack(name, MeasurementSpec()), "steps", 20) == 20


@pytest.mark.parametrize("attack", [PGD(steps=0, eps_255=24.0), TPGD(steps=0, start_std=0.1)], ids=repr)
def test_restarts_break_more_and_leave_the_first_start_as_it_was(attack, network, batch) -> None:
    once, often = (apply(dataclasses.replace(attack, restarts=count), network, batch) for count in (1, 9))
    with torch.no_grad():
        right = [network(made).argmax(1) == batch.labels for made in (once, often)]
    assert right[1].sum() < right[0].sum() and not (right[1] & ~right[0]).any()
    same = ~right[0] | right[1]
    assert torch.equal(once[same], often[same])


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_the_attack_raises_its_loss(attack, network, batch) -> None:
    loss = cross_entropy_of(batch.labels)
    if isinstance(attack, TPGD):
        loss = divergence_from(network(batch.images))
    with torch.no_grad():
        assert loss(network(apply(attack, network, batch))) > loss(network(batch.images)) + 0.1


def test_tpgd_takes_the_clean_logits_it_is_given(network, batch) -> None:
    clean = network(batch.images)
    given_ = TPGD().perturb(network, *batch[:2], index=batch.index, seed=SEED, clean_logits=clean)
    assert torch.equal(given_, apply(TPGD(), network, batch))
    other = TPGD().perturb(network, *batch[:2], index=batch.index, seed=SEED, clean_logits=clean.roll(1, 0))
    assert not torch.equal(other, given_)


def test_the_loop_leaves_parameters_images_and_grad_mode_alone(network, batch) -> None:
    images = batch.images.clone()
    with torch.no_grad():
        perturbed = apply(PGD(steps=3), network, batch)
        assert not torch.is_grad_enabled()
    assert not torch.equal(perturbed, images)
    assert torch.equal(batch.images, images) and not batch.images.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_no_parameter_gradient_is_computed(network, batch) -> None:
    masks: list[list[bool]] = []

    class Watchdog(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.convolution_backward.default:
                masks.append(list(args[-1]))
            return function(*args, **(kwargs or {}))

    with Watchdog():
        apply(FGSM(), network, batch)
    assert masks == [[True, False, False]] * 2  # of input, weight, bias: two convolutions, each asked for the input's


def test_no_steps_return_the_start(network, batch) -> None:
    start = uniform_start(batch.images, 0.1, 5, batch.index)
    done = ascend(network, batch.images, cross_entropy_of(batch.labels), start=start, eps=0.1, step=0.1, steps=0)
    assert torch.equal(done, start) and not done.requires_grad


@settings(max_examples=30)
@given(eps=st.floats(0, 1), key=st.integers(0, 2**62), value=st.floats(0, 1))
def test_the_random_start_fills_the_ball(eps: float, key: int, value: float) -> None:
    images = torch.full((2, 3, 4, 4), value, dtype=torch.float64)
    start = uniform_start(images, eps, key, torch.arange(2))
    assert start.min() >= max(0.0, value - eps) - 1e-12 and start.max() <= min(1.0, value + eps) + 1e-12


def test_the_random_start_is_uniform() -> None:
    offsets = uniform_start(torch.full((100, 3, 8, 8), 0.5), 0.25, 5, torch.arange(100)).flatten() - 0.5
    counts = torch.histc(offsets, bins=10, min=-0.25, max=0.25) / offsets.numel()
    assert (counts - 0.1).abs().max() < 0.01


def test_works_under_bfloat16_autocast(make_network, make_batch) -> None:
    network = make_network(torch.float32)
    batch = make_batch(network, dtype=torch.float32)
    seen: list[torch.dtype] = []

    def halved(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return network(x)

    def loss(logits: Tensor) -> Tensor:
        seen.append(logits.dtype)
        return F.cross_entropy(logits, batch.labels, reduction="sum")

    assert halved(batch.images).dtype == torch.bfloat16
    perturbed = ascend(halved, batch.images, loss, start=batch.images, eps=0.1, step=0.02, steps=3)
    assert perturbed.dtype == torch.float32 and seen == [torch.float32] * 3
    with torch.no_grad():
        assert loss(network(perturbed)) > loss(network(batch.images))
    assert apply(TPGD(steps=2), halved, batch).dtype == torch.float32


def test_never_waits_for_the_device(batch) -> None:
    """Meta tensors have no values: whatever looked at one would fail."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)).to("meta")
    images, labels = (tensor.to("meta") for tensor in batch[:2])
    images = images.float()
    loss = cross_entropy_of(labels)
    assert ascend(network, images, loss, start=images, eps=0.1, step=0.1, steps=2).shape == images.shape
    clean = network(images)
    done = ascend(network, images, divergence_from(clean), start=images, eps=0.1, step=0.1, steps=2)
    assert done.shape == images.shape


def test_the_loop_compiles_to_one_graph(network, batch) -> None:
    config = torch._dynamo.config
    if not hasattr(config, "trace_autograd_ops"):
        pytest.skip("this torch cannot trace torch.autograd.grad")

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        return ascend(network, images, cross_entropy_of(labels), start=images, eps=0.03, step=0.01, steps=2)

    with config.patch(trace_autograd_ops=True):
        compiled = torch.compile(attack, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(*batch[:2]), attack(*batch[:2]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [lambda: FGSM(eps_255=-1.0), lambda: PGD(steps=-1), lambda: TPGD(start_std=-0.1)])
def test_negative_hyperparameters_are_refused(make) -> None:
    with pytest.raises(SpecError, match="at least 0"):
        make()


def test_hyperparameters_that_are_no_number_are_refused() -> None:
    with pytest.raises(SpecError, match=r"BIM\.step_255 of at least 0, got nan"):
        BIM(step_255=float("nan"))
