from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablate.analysis.lowpass import filtered, lowpass
from ablate.attacks.base import Attack, build_attack
from ablate.attacks.evaluation import CleanLogits, adversarial_examples, as_float, evaluate, through_filter
from ablate.attacks.linf import BIM, PGD, TPGD
from ablate.attacks.noise import GaussianNoise, Natural
from ablate.core.errors import MeasurementError
from ablate.core.filters import Filter
from ablate.spaces.specs import MeasurementSpec

LOW, HIGH = functools.partial(Filter, "lowpass"), functools.partial(Filter, "highpass")


class Counting(nn.Module):
    """Counts how many images it was asked about."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.inner(x)


@pytest.fixture
def data(make_network, make_batch):
    network = make_network(torch.float32)
    batch = make_batch(network, count=20, dtype=torch.float32)
    return network, (batch.images * 255).round().to(torch.uint8), batch.labels


def test_bytes_become_floats_in_the_unit_interval() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert as_float(images).tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert as_float(images.double()).dtype == torch.float64


def test_natural_is_plain_classification(data) -> None:
    network, images, labels = data
    correct = evaluate(network, Natural(), images, labels, seed=0, batch_size=6)
    with torch.no_grad():
        expected = network(images.float() / 255).argmax(1) == labels
    assert list(correct) == [None] and torch.equal(correct[None], expected)


def test_bytes_and_floats_are_measured_alike(data) -> None:
    network, images, labels = data
    as_bytes = evaluate(network, PGD(steps=3), images, labels, seed=0, batch_size=6)
    as_floats = evaluate(network, PGD(steps=3), as_float(images), labels, seed=0, batch_size=6)
    assert torch.equal(as_bytes[None], as_floats[None])


@pytest.mark.parametrize("name", ["gn", "fgsm", "pgd20", "bim20", "tpgd20", "cw20_exact"])
def test_the_evaluation_batch_does_not_matter(name, network, batch) -> None:
    attack = build_attack(name, MeasurementSpec(noise_std=0.3))
    small, large = (
        evaluate(network, attack, batch.images, batch.labels, seed=4, batch_size=size)[None] for size in (5, 24)
    )
    assert torch.equal(small, large)


def test_index_says_which_example_an_image_is(network, batch) -> None:
    attack = build_attack("gn", MeasurementSpec(noise_std=0.4))
    whole = adversarial_examples(network, attack, batch.images, batch.labels, seed=0, batch_size=7)
    chosen = torch.tensor([3, 17, 8])
    part = adversarial_examples(
        network, attack, batch.images[chosen], batch.labels[chosen], seed=0, batch_size=7, index=chosen
    )
    assert torch.equal(part, whole[chosen])


def test_examples_are_the_judged_ones(network, batch) -> None:
    attack = PGD(steps=4)
    made = adversarial_examples(network, attack, batch.images, batch.labels, seed=2, batch_size=7)
    judged = evaluate(network, attack, batch.images, batch.labels, seed=2, batch_size=7)[None]
    with torch.no_grad():
        assert torch.equal(network(made).argmax(1) == batch.labels, judged)


@pytest.mark.parametrize("attack", [Natural(), PGD(steps=3)], ids=repr)
def test_every_filter_judges_the_unfiltered_attack(attack, network, batch) -> None:
    filters = (None, *map(LOW, (8, 6, 3)), *map(HIGH, (1, 3, 6)), HIGH(3, keep_mean=True))
    correct = evaluate(network, attack, batch.images, batch.labels, seed=0, batch_size=10, filters=filters)
    made = adversarial_examples(network, attack, batch.images, batch.labels, seed=0, batch_size=10)
    assert tuple(correct) == filters
    for seen in filters:
        with torch.no_grad():
            assert torch.equal(correct[seen], network(filtered(made, seen)).argmax(1) == batch.labels)


def test_the_adaptive_attack_goes_through_the_filter(network, batch) -> None:
    attack, filters = BIM(eps_255=16.0, steps=8), (None, LOW(8), LOW(4), HIGH(2))
    kwargs = {"seed": 0, "batch_size": 24, "filters": filters}
    blind = evaluate(network, attack, batch.images, batch.labels, **kwargs)
    adaptive = evaluate(network, attack, batch.images, batch.labels, adaptive=True, **kwargs)
    for same in (None, LOW(8)):
        assert torch.equal(blind[same], adaptive[same])
    for seen in filters[2:]:
        made = attack.perturb(through_filter(network, seen), batch.images, batch.labels, index=batch.index, seed=0)
        with torch.no_grad():
            assert torch.equal(adaptive[seen], network(filtered(made, seen)).argmax(1) == batch.labels)
        assert adaptive[seen].sum() < blind[seen].sum()


def test_the_attack_is_made_once_for_all_filters(network, batch) -> None:
    counting = Counting(network)
    filters = (None, LOW(8), LOW(6), LOW(4), HIGH(4))
    evaluate(counting, BIM(steps=3), batch.images, batch.labels, seed=0, batch_size=24, filters=filters)
    assert counting.seen == 24 * (3 + 4)  # three steps, four distinct filters


def test_clean_logits_are_shared_between_attacks(network, batch) -> None:
    counting = Counting(network)
    clean = CleanLogits(counting, batch.images, 24)
    kwargs = {"seed": 0, "batch_size": 24, "clean": clean}
    natural = evaluate(counting, Natural(), batch.images, batch.labels, **kwargs)[None]
    assert counting.seen == 24
    shared = evaluate(counting, TPGD(steps=2), batch.images, batch.labels, **kwargs)[None]
    again = evaluate(counting, Natural(), batch.images, batch.labels, **kwargs)[None]
    assert counting.seen == 24 * (1 + 2 + 1) and torch.equal(natural, again)
    alone = evaluate(network, TPGD(steps=2), batch.images, batch.labels, seed=0, batch_size=24)[None]
    assert torch.equal(shared, alone)


def test_clean_logits_do_not_depend_on_their_batch_and_know_the_filter(network, batch) -> None:
    clean = CleanLogits(network, batch.images, 5)
    with torch.no_grad():
        torch.testing.assert_close(clean.at(), network(batch.images))
        torch.testing.assert_close(clean.at(LOW(4)), network(lowpass(batch.images, 4)))
        torch.testing.assert_close(clean.at(HIGH(4)), network(batch.images - lowpass(batch.images, 4)))
    assert clean.at(LOW(8)) is clean.at(None) and clean.at(LOW(4)) is clean.at(LOW(4))


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was_found(training, network, batch) -> None:
    network.train(training)
    network[1].eval()
    network[0].weight.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for attack in (PGD(steps=2), TPGD(steps=2), build_attack("cw20", MeasurementSpec())):
        evaluate(
            network, attack, batch.images, batch.labels, seed=0, batch_size=8, filters=(None, LOW(4)), adaptive=True
        )
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == [False] + [True] * (len(list(network.parameters())) - 1)


def test_evaluation_mode_is_used_even_for_a_training_network(network, batch) -> None:
    expected = evaluate(network, PGD(steps=2), batch.images, batch.labels, seed=0, batch_size=8)[None]
    network.train()
    assert torch.equal(
        evaluate(network, PGD(steps=2), batch.images, batch.labels, seed=0, batch_size=8)[None], expected
    )


def test_results_carry_no_gradients(network, batch) -> None:
    assert not CleanLogits(network, batch.images, 8).at().requires_grad
    made = adversarial_examples(network, PGD(steps=1), batch.images, batch.labels, seed=0, batch_size=8)
    assert not made.requires_grad


def test_evaluation_works_where_gradients_are_switched_off(network, batch) -> None:
    expected = evaluate(network, PGD(steps=2), batch.images, batch.labels, seed=0, batch_size=8)[None]
    with torch.no_grad():
        inside = evaluate(network, PGD(steps=2), batch.images, batch.labels, seed=0, batch_size=8)[None]
    assert torch.equal(inside, expected)


class Making(Attack):
    """An attack that hands over whatever a function makes of the images."""

    name = "making"

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        self.make = make

    def perturb(self, network: Any, images: Tensor, labels: Tensor, **_: Any) -> Any:
        return self.make(images)


def one_pixel(value: float) -> Callable[[Tensor], Tensor]:
    def make(images: Tensor) -> Tensor:
        changed = images.clone()
        changed[-1, 0, 0, 0] = value
        return changed

    return make


UNSOUND = {
    "nan": (one_pixel(math.nan), r"expected adversarial images in \[0, 1\], got nan"),
    "infinite": (one_pixel(math.inf), r"in \[0, 1\], got .* to inf"),
    "above": (one_pixel(1.001), r"in \[0, 1\], got .* to 1.001"),
    "below": (one_pixel(-0.5), r"in \[0, 1\], got -0.5 to"),
    "fewer": (lambda images: images[:-1], "expected adversarial images of shape"),
    "smaller": (lambda images: images[..., 1:, 1:], "expected adversarial images of shape"),
    "one": (lambda images: images[:1].mean(dim=(0, 1)), "expected adversarial images of shape"),
    "bytes": (lambda images: (images * 255).to(torch.uint8), "expected adversarial images as a tensor of floats"),
    "array": (lambda images: images.numpy(), "as a tensor of floats, got ndarray"),
    "nothing": (lambda images: None, "as a tensor of floats, got NoneType"),
    "in place": (lambda images: images.mul_(0.5), "in a tensor of their own"),
}


@pytest.mark.parametrize("kind", UNSOUND)
@pytest.mark.parametrize("ask", [evaluate, adversarial_examples])
def test_what_is_no_image_is_refused_by_the_attacks_name(kind, ask, network, batch) -> None:
    make, reason = UNSOUND[kind]
    images, labels, _ = batch
    with pytest.raises(MeasurementError, match=f"making: .*{reason}"):
        ask(network, Making(make), images.clone(), labels, seed=0, batch_size=4)


def test_what_rounding_leaves_beyond_the_interval_is_an_image(network, batch) -> None:
    images, labels, _ = batch
    evaluate(network, Making(one_pixel(1 + 2**-22)), images, labels, seed=0, batch_size=4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("attack", [Natural(), GaussianNoise()])
@pytest.mark.parametrize("seen_through", [None, LOW(4), HIGH(4)])
def test_logits_that_are_not_finite_count_as_no_answer(value, attack, seen_through, network, batch) -> None:
    images, labels, _ = batch

    class Breaking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, seen: Tensor) -> Tensor:
            logits = self.inner(seen).clone()
            logits[0, 0] = value
            return logits

    with pytest.raises(MeasurementError, match=f"{attack.name}: expected finite logits"):
        evaluate(Breaking(), attack, images, labels, seed=0, batch_size=4, filters=[seen_through])


def test_logits_of_another_shape_are_not_compared_with_labels(network, batch) -> None:
    images, labels, _ = batch

    class Shaped(nn.Module):
        def forward(self, seen: Tensor) -> Tensor:
            return network(seen)[:, :, None]

    with pytest.raises(MeasurementError, match=r"expected logits of shape \[\d+, classes\]"):
        evaluate(Shaped(), Natural(), images, labels, seed=0, batch_size=4)


def test_values_are_fetched_once_for_all_batches(network, batch, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    original = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: fetched.append(self) or original(self))
    images, labels, _ = batch
    evaluate(network, GaussianNoise(), images, labels, seed=0, batch_size=2, filters=[None, LOW(4)])
    assert len(fetched) == 1
