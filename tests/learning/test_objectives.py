"""TRADES, MART, AWP, label smoothing, schedules and one-step attacks, beside plain loops written from their papers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from ablate.core import randomness
from ablate.core.errors import SpecError
from ablate.core.registry import temporary_registrations
from ablate.learning import monitoring
from ablate.learning import training as training_module
from ablate.learning.augmentation import register_augmentation
from ablate.learning.cost import image_cost
from ablate.learning.models import build_network
from ablate.learning.objectives import Batch, get_objective, register_objective
from ablate.learning.state import TrainingState
from ablate.learning.training import train
from ablate.planning.keys import training_key
from ablate.spaces.specs import TrainingSpec, TrialSpec
from tests.support.tiny_training import CLASSES, COUNT, CPU, DATASET, SIZE, assert_same, run, same, spec_of

EPS, STEP = 8 / 255, 2 / 255
PLAIN: dict[str, Any] = {"training__epochs": 2, "training__crop_padding": 0, "training__flip": False}
CASES: dict[str, dict[str, Any]] = {
    "pgd_at": {},
    "pgd_at, smoothed": {"training__label_smoothing": 0.3},
    "trades": {"training__objective": "trades"},
    "trades, smoothed, weight 2": {
        "training__objective": "trades",
        "training__objective_weight": 2.0,
        "training__label_smoothing": 0.1,
    },
    "mart": {"training__objective": "mart"},
    "pgd_at + awp": {"training__awp": 0.01},
    "trades + awp": {"training__objective": "trades", "training__awp": 0.005},
    "mart + awp": {"training__objective": "mart", "training__awp": 0.005},
    "fgsm_rs": {"training__attack__name": "fgsm_rs"},
    "n_fgsm": {"training__attack__name": "n_fgsm"},
    "cosine": {"training__schedule": "cosine"},
    "one_cycle": {"training__schedule": "one_cycle"},
    "cyclic": {"training__schedule": "cyclic"},
}


# The plain loop


def noise(spec: TrialSpec, epoch: int, step: int, images: Tensor, kind: str) -> Tensor:
    """The numbers that ours draws: of a paper's loop they are given."""
    key = randomness.stream(spec.seed, "attack start", epoch, step)
    draw = randomness.normal if kind == "normal" else randomness.uniform
    return draw(key, torch.arange(len(images)), tuple(images.shape[1:])).to(images.dtype)


def attack_of(spec: TrialSpec, network: nn.Module, x: Tensor, y: Tensor, epoch: int, step: int) -> Tensor:
    training = spec.training
    network.eval()
    if training.objective == "trades":  # Algorithm 1: away from the natural answers, from a little noise
        natural = network(x).detach().softmax(dim=1)
        adversarial = x + 0.001 * noise(spec, epoch, step, x, "normal")
        alpha, steps = STEP, training.attack.steps
    elif training.attack.name == "n_fgsm":
        eta = 2 * EPS * (2 * noise(spec, epoch, step, x, "uniform") - 1)
        at = (x + eta).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(at), y), at)
        return (x + eta + EPS * gradient.sign()).clamp(0, 1)
    else:
        adversarial = (x + EPS * (2 * noise(spec, epoch, step, x, "uniform") - 1)).clamp(0, 1)
        single = training.attack.name == "fgsm_rs"
        alpha, steps = (1.25 * EPS, 1) if single else (STEP, training.attack.steps)
    for _ in range(steps):
        adversarial = adversarial.detach().requires_grad_()
        logits = network(adversarial)
        if training.objective == "trades":
            loss = (natural * (natural.log() - logits.log_softmax(dim=1))).sum()
        else:
            loss = F.cross_entropy(logits, y)
        (gradient,) = torch.autograd.grad(loss, adversarial)
        adversarial = adversarial.detach() + alpha * gradient.sign()
        adversarial = torch.max(torch.min(adversarial, x + EPS), x - EPS).clamp(0, 1)
    return adversarial


def loss_of(training: TrainingSpec, network: nn.Module, x: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
    network.train()
    rows, smoothing = torch.arange(len(y)), training.label_smoothing
    wanted = F.one_hot(y, CLASSES).to(x.dtype) * (1 - smoothing) + smoothing / CLASSES
    if training.objective == "pgd_at":
        return -(wanted * network(adversarial).log_softmax(dim=1)).sum(dim=1).mean()
    p, q = network(x).softmax(dim=1), network(adversarial).softmax(dim=1)
    divergence = (p * (p / q).log()).sum(dim=1)
    if training.objective == "trades":
        weight = 6.0 if training.objective_weight is None else training.objective_weight
        return -(wanted * p.log()).sum(dim=1).mean() + weight * divergence.mean()
    others = q.clone()
    others[rows, y] = 0
    boosted = -q[rows, y].log() - (1 - others.max(dim=1).values).log()
    return (boosted + 5.0 * divergence * (1 - p[rows, y])).mean()


def rate(training: TrainingSpec, epoch: int, step: int, steps: int) -> float:
    done = (epoch - 1 + (step + 0.5) / steps) / training.epochs
    if training.schedule == "milestones":
        return 0.1 if epoch == 1 else 0.01
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    if training.schedule == "cosine":
        return 0.05 * (1 + torch.cos(torch.tensor(torch.pi * done, dtype=torch.float64)).item())
    if training.schedule == "cyclic":
        return 0.2 * done if done <= 0.5 else 0.2 * (1 - done)
    # PyTorch's, on a grid so fine that its own counting of steps does not show.
    fine = 20_000
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=fine + 1, cycle_momentum=False)
    phases = cycle._schedule_phases  # type: ignore[attr-defined]
    assert phases[0]["end_step"] == pytest.approx(0.3 * fine, abs=1)
    start, end = 0.1 / 25, 0.1 / 25 / 1e4
    if done < 0.3:
        return cycle._annealing_cos(start, 0.1, done / 0.3)  # type: ignore[attr-defined, no-any-return]
    return cycle._annealing_cos(0.1, end, (done - 0.3) / 0.7)  # type: ignore[attr-defined, no-any-return]


def plain_loop(
    spec: TrialSpec, network: nn.Module, dtype: torch.dtype, updates: int | None = None, right: list[int] | None = None
) -> list[float]:
    """Adversarial training as papers write it; returns the loss of each update, and notes what was right before it."""
    training, losses = spec.training, []
    images, labels = torch.from_numpy(DATASET.train_images).to(dtype) / 255, torch.from_numpy(DATASET.train_labels)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for epoch in range(1, training.epochs + 1):
        order = randomness.permutation(randomness.stream(spec.seed, "order", epoch), COUNT)
        batches = order.split(training.batch_size)
        for step, batch in enumerate(batches):
            x, y = images[batch], labels[batch]
            adversarial = attack_of(spec, network, x, y, epoch, step)
            moved: list[tuple[nn.Parameter, Tensor]] = []
            if training.awp:
                averages = {name: buffer.clone() for name, buffer in network.named_buffers()}
                weights = [module.weight for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
                value = loss_of(training, network, x, adversarial, y)
                for weight, gradient in zip(weights, torch.autograd.grad(value, weights), strict=True):
                    moved.append((weight, weight.detach().clone()))
                    weight.data += training.awp * weight.norm() / gradient.norm() * gradient
                for name, buffer in network.named_buffers():
                    buffer.copy_(averages[name])
            if right is not None:
                right.append(int((copy.deepcopy(network).train()(adversarial).argmax(1) == y).sum()))
            loss = loss_of(training, network, x, adversarial, y)
            optimizer.zero_grad()
            loss.backward()
            for weight, before in moved:
                weight.data = before
            optimizer.param_groups[0]["lr"] = rate(training, epoch, step, len(batches))
            optimizer.step()
            losses.append(loss.item())
            if updates is not None and len(losses) == updates:
                return losses
    return losses


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ours, with a network and images of 64 bits."""

    def double(images: Tensor) -> Tensor:
        return images.double() / 255 if images.dtype == torch.uint8 else images.double()

    monkeypatch.setattr(training_module, "as_float", double)
    monkeypatch.setattr(monitoring, "as_float", double)
    monkeypatch.setattr(training_module, "build_network", lambda *given: build_network(*given).double())
    yield


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("case", CASES)
def test_two_epochs_in_float64_are_those_of_the_plain_loop(case: str) -> None:
    spec = spec_of(**PLAIN, **CASES[case])
    state = train(spec, DATASET, device=CPU)
    network = build_network(spec.model, CLASSES, SIZE, spec.seed).double()
    right: list[int] = []
    losses = plain_loop(spec, network, torch.float64, right=right)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(state.network[name], value, rtol=1e-9, atol=1e-11)
    sizes = torch.tensor([12.0, 12, 12, 4], dtype=torch.float64)
    for epoch, entry in enumerate(state.history[1:]):
        of_epoch = torch.tensor(losses[4 * epoch : 4 * epoch + 4], dtype=torch.float64)
        assert entry["metrics"]["train/loss"] == pytest.approx((of_epoch * sizes).sum().item() / COUNT, rel=1e-9)
        counted = 100 * sum(right[4 * epoch : 4 * epoch + 4]) / COUNT
        assert entry["metrics"]["train/accuracy_attack"] == pytest.approx(counted)


@pytest.mark.parametrize("case", ["trades", "mart", "trades + awp", "mart + awp", "pgd_at + awp", "fgsm_rs", "n_fgsm"])
def test_one_update_in_float32_is_the_plain_loops_to_rounding(case: str) -> None:
    changes = {"training__epochs": 1, "training__milestones": None, "training__batch_size": COUNT}
    spec = spec_of(**{**PLAIN, **CASES[case], **changes})
    state = train(spec, DATASET, device=CPU)
    network = build_network(spec.model, CLASSES, SIZE, spec.seed)
    [loss] = plain_loop(spec, network, torch.float32, updates=1)
    assert state.history[1]["metrics"]["train/loss"] == pytest.approx(loss, rel=1e-4)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(state.network[name], value, rtol=2e-3, atol=2e-5)


# Going on, and that every option matters


@pytest.mark.parametrize("case", CASES)
def test_killed_after_an_epoch_and_resumed_gives_the_same_bits(case: str) -> None:
    changes = {"training__epochs": 2, "data__validation": 0.2, **CASES[case]}
    states: list[TrainingState] = []
    final = train(spec_of(**changes), DATASET, device=CPU, on_epoch=states.append)
    assert_same(run(state=states[1], **changes), final)


@pytest.mark.parametrize("case", list(CASES)[1:])
def test_each_option_changes_the_run_and_its_key(case: str) -> None:
    base = {"training__epochs": 2, "training__milestones": []}
    one, other = run(**base), run(**{**base, **CASES[case]})
    assert not same(one.network, other.network)
    assert training_key(spec_of(**base), "0") != training_key(spec_of(**{**base, **CASES[case]}), "0")


def test_a_weight_that_is_the_objectives_own_is_the_same_training_and_another_is_not() -> None:
    trades = {"training__objective": "trades"}
    keys = [training_key(spec_of(**trades, training__objective_weight=weight), "0") for weight in (None, 6.0, 5.0)]
    assert keys[0] == keys[1] != keys[2]
    assert not same(run(**trades).network, run(**trades, training__objective_weight=1.0).network)


def test_steps_of_one_step_attacks_and_milestones_of_other_schedules_are_no_part_of_a_key() -> None:
    for name in ("fgsm_rs", "n_fgsm"):
        one_step = {"training__attack__name": name}
        for inert in ({"training__attack__steps": 20}, {"training__attack__step_255": 1.0}):
            assert training_key(spec_of(**one_step), "0") == training_key(spec_of(**one_step, **inert), "0")
        assert image_cost(spec_of(**one_step)) == 2 + 3
    cosine = {"training__schedule": "cosine"}
    assert training_key(spec_of(**cosine), "0") == training_key(spec_of(**cosine, training__milestones=None), "0")


def test_costs_count_every_pass() -> None:
    assert image_cost(spec_of()) == 2 * 2 + 3
    assert image_cost(spec_of(training__objective="trades")) == 2 * 2 + 1 + 6
    assert image_cost(spec_of(training__objective="mart", training__awp=0.01)) == 2 * 2 + 12


def test_weights_and_averages_are_their_own_after_awp() -> None:
    from ablate.learning.objectives import moved_weights, perturbable, put_back

    network = build_network(spec_of().model, CLASSES, SIZE, 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = perturbable(network)
    assert len(weights) == 3
    with moved_weights(weights, [torch.ones_like(weight) for weight in weights], 0.1), put_back(network.buffers()):
        network(torch.rand(4, 3, SIZE, SIZE))
        for weight in weights:
            name = next(name for name, one in network.named_parameters() if one is weight)
            moved = (weight - before[name]).norm() / before[name].norm()
            assert moved.item() == pytest.approx(0.1, rel=1e-4)
    assert same(dict(network.state_dict()), before)


def test_awp_moves_quantized_weights_too() -> None:
    changes = {"training__epochs": 1, "training__milestones": [], "model__quantization": {"bits": 4}}
    assert not same(run(**changes).network, run(**changes, training__awp=0.01).network)


def test_n_fgsm_leaves_the_ball_and_fgsm_rs_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, float] = {}

    def watched(name: str) -> Callable[[Batch], Tensor]:
        objective = get_objective("pgd_at")

        def look(batch: Batch) -> Tensor:
            distance = (batch.adversarial - batch.images).abs().max().item()
            seen[name] = max(seen.get(name, 0.0), distance)
            assert batch.adversarial.min() >= 0 and batch.adversarial.max() <= 1
            return objective(batch)

        return look

    for name in ("fgsm_rs", "n_fgsm"):
        monkeypatch.setattr(training_module, "get_objective", lambda _, name=name: watched(name))
        run(training__epochs=1, training__milestones=[], training__attack__name=name)
    assert seen["fgsm_rs"] <= EPS + 1e-6
    assert 2 * EPS < seen["n_fgsm"] <= 3 * EPS + 1e-6


def test_a_rate_never_is_that_of_a_step_for_nothing_and_reaches_the_one_asked_for() -> None:
    for name in ("cosine", "one_cycle", "cyclic"):
        training = TrainingSpec(schedule=name, epochs=10, learning_rate=0.2)
        rates = [training.learning_rate_at(epoch, (step + 0.5) / 50) for epoch in range(1, 11) for step in range(50)]
        assert min(rates) > 0 and max(rates) == pytest.approx(0.2, rel=0.01)
        assert rates[-1] < 0.01 * max(rates)


# What does not go together


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"objective": "mart", "augmentation": {"name": "mixup", "order": "clean"}},
            "expected hard labels with .*mart",
        ),
        ({"objective": "mart", "augmentation": {"name": "cutmix"}}, "expected hard labels with .*mart, got .*cutmix"),
        (
            {"label_smoothing": 0.1, "augmentation": {"name": "mixup"}},
            r"label_smoothing: 0 with mixed labels \(mixup\)",
        ),
        ({"objective": "mart", "label_smoothing": 0.1}, "label_smoothing: 0 with training.objective: mart"),
        ({"objective": "trades", "augmentation": {"name": "cutout"}}, "order: clean with training.objective: trades"),
        ({"objective": "trades", "attack": {"name": "none"}}, "expected a training.attack with .*trades"),
        ({"objective": "trades", "attack": {"random_start": False}}, "random_start: true with training.objective"),
        ({"objective_weight": 6.0}, "no training.objective_weight with training.objective: pgd_at, .* got 6"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TrainingSpec.model_validate(changes)


def test_trades_takes_mixed_labels_from_clean_augmentation() -> None:
    mixed = {"training__augmentation": {"name": "mixup", "order": "clean"}}
    one, other = run(training__objective="trades", **mixed), run(training__objective="trades")
    assert not same(one.network, other.network)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"objective": "mart"}, "objective: mart"), ({"label_smoothing": 0.1}, "label_smoothing")],
)
def test_a_users_augmentation_that_mixes_labels_is_refused_before_training(changes: dict[str, Any], words: str) -> None:
    with temporary_registrations():

        @register_augmentation("soften")
        def soften(images: Tensor, targets: Tensor, draws: Any, spec: Any) -> tuple[Tensor, Tensor]:
            return images, 0.9 * targets + 0.1 / CLASSES

        asked = {f"training__{name}": value for name, value in changes.items()}
        seen: list[TrainingState] = []
        spec = spec_of(**asked, training__augmentation={"name": "soften", "order": "clean"})
        with pytest.raises(SpecError, match=rf"expected hard labels with training\.{words}, got .*soften, which mixes"):
            train(spec, DATASET, device=CPU, on_epoch=seen.append)
        assert not seen


def test_a_user_registers_an_objective_in_a_few_lines() -> None:
    with temporary_registrations():

        @register_objective("alp", weight=0.5)
        def alp(batch: Batch) -> Tensor:
            clean, adversarial = batch.clean_logits, batch.adversarial_logits
            return batch.loss(adversarial).mean() + batch.weight * (clean - adversarial).square().mean()

        state = run(training__objective="alp")
        assert state.epoch == 3 and not same(state.network, run().network)
        assert not same(state.network, run(training__objective="alp", training__objective_weight=2.0).network)
    with pytest.raises(SpecError, match=r"training\.objective.*alp"):
        run(training__objective="alp")
