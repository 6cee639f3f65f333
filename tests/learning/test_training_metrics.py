"""What a training logs of each epoch, which network it keeps as best, and numbers that are none."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ablate.attacks import PGD, Natural, evaluate
from ablate.learning.data import split_validation
from ablate.learning.models import build_network
from ablate.learning.models.folding import as_measured
from ablate.learning.monitoring import Validation
from ablate.learning.state import TrainingError, TrainingState
from ablate.learning.training import TrainingRun, train
from tests.support.tiny_training import (
    CLASSES,
    CPU,
    DATASET,
    SIZE,
    assert_same,
    make_dataset,
    run,
    same,
    spec_of,
)


def test_metrics_of_each_epoch() -> None:
    state = run(data__validation=0.2)
    probe = {"energy/ratio", "energy/lfi", "energy/hfi", "train/accuracy_natural"}
    held_out = {"validation/natural", "validation/attack", "validation/robust"}
    trained = {"train/loss", "train/accuracy_attack", "learning_rate", "seconds", "images_per_second"}
    first, *rest = state.history
    assert first["epoch"] == 0 and first["metrics"].keys() == probe | held_out
    assert [entry["epoch"] for entry in rest] == [1, 2, 3]
    assert all(entry["metrics"].keys() == probe | held_out | trained for entry in rest)
    assert all(type(value) is float for entry in state.history for value in entry["metrics"].values())
    assert all(abs(entry["timestamp_ms"] / 1000 - time.time()) < 60 for entry in state.history)
    assert [entry["metrics"]["learning_rate"] for entry in rest] == pytest.approx([0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("attack", "judge"),
    [
        ({"eps_255": 16.0, "step_255": 9.0, "steps": 2}, PGD(name="validation", eps_255=16.0, step_255=9.0, steps=2)),
        # One step says little: seven that fit its radius.
        ({"name": "fgsm_rs", "eps_255": 16.0}, PGD(name="validation", eps_255=16.0, step_255=4.0, steps=7)),
        ({"steps": 7}, PGD(name="validation", eps_255=8.0, step_255=2.0, steps=7)),
    ],
    ids=["pgd", "fgsm_rs", "the paper's"],
)
def test_metrics_are_their_definitions(attack: dict[str, Any], judge: PGD) -> None:
    dataset, seed = make_dataset(400), 2
    dataset.train_images[np.arange(400), dataset.train_labels] -= 50  # hard to tell, so that accuracies differ
    changes = {"data__validation": 0.4, "training__epochs": 3, "training__milestones": [], "training__batch_size": 24}
    spec = spec_of(**changes, training__attack=attack, seed=seed)
    state = train(spec, dataset, device=CPU)
    metrics = state.history[-1]["metrics"]
    network = build_network(spec.model, CLASSES, SIZE, seed)
    network.load_state_dict(state.network)
    learned, held = split_validation(dataset.train_labels, 0.4)
    with torch.no_grad():
        first, norm = network.eval().get_submodule("0"), network.get_submodule("1")
        seen = nn.functional.hardtanh(norm(first(torch.from_numpy(dataset.train_images[learned]) / 255)))
    means = seen.double().mean(dim=(2, 3))
    low = SIZE * means.square().sum(1).sqrt()
    high = (seen.double() - means[:, :, None, None]).square().sum(dim=(1, 2, 3)).sqrt()
    assert metrics["energy/lfi"] == pytest.approx(float(low.mean()), rel=1e-5)
    assert metrics["energy/hfi"] == pytest.approx(float(high.mean()), rel=1e-5)
    assert metrics["energy/ratio"] == pytest.approx(float((low / high).mean()), rel=1e-5)
    attacks = {
        "natural": Natural(),
        "attack": judge,
        "robust": PGD(name="validation", eps_255=8.0, step_255=2.0, steps=7),
    }
    images, labels = torch.from_numpy(dataset.train_images[held]), torch.from_numpy(dataset.train_labels[held])
    for name, by in attacks.items():
        right = evaluate(network, by, images, labels, seed=seed, batch_size=64, index=torch.from_numpy(held))[None]
        assert metrics[f"validation/{name}"] == pytest.approx(100 * float(right.double().mean())), name
    assert len({metrics[f"validation/{name}"] for name in attacks}) == len(set(map(repr, attacks.values())))


def test_a_share_is_of_the_images_that_were_trained_on() -> None:
    metrics = run(training__batch_size=13, training__epochs=1, training__milestones=[]).history[-1]["metrics"]
    right = metrics["train/accuracy_attack"] * 39 / 100  # the last of 40 would be a batch of its own
    assert 0 < right < 39 and right == pytest.approx(round(right), abs=1e-9)


def test_fat_logs_its_masks() -> None:
    metrics = run(model__quantization__fat=True).history[0]["metrics"]
    assert 0 < metrics["fat/mask_min"] <= metrics["fat/mask_mean"] <= 1


def test_fat_keeps_its_own_rate_under_the_same_schedule() -> None:
    state = run(model__quantization={"fat": True, "fat_learning_rate": 0.02})
    assert [group["lr"] for group in state.optimizer["param_groups"]] == pytest.approx([0.01, 0.002])


def test_the_probe_is_the_first_512_images_trained_on_unaugmented() -> None:
    dataset = make_dataset(600)
    changes = {"training__epochs": 1, "training__milestones": [], "training__batch_size": 300}
    probe = run(dataset, **changes).history[0]["metrics"]
    altered = make_dataset(600)
    altered.train_images[512:] = 255 - altered.train_images[512:]
    assert run(altered, **changes).history[0]["metrics"] == probe
    altered.train_images[511] = 255 - altered.train_images[511]
    assert run(altered, **changes).history[0]["metrics"] != probe


# Validation


def test_best_is_the_first_epoch_of_the_highest_accuracy_under_attack() -> None:
    states: list[TrainingState] = []
    changes = {"data__validation": 0.4, "training__epochs": 6, "training__milestones": []}
    final = train(spec_of(**changes), DATASET, device=CPU, on_epoch=states.append)
    accuracies = [entry["metrics"]["validation/attack"] for entry in final.history[1:]]
    epoch = 1 + int(np.argmax(accuracies))
    assert states[0].best is None and final.best is not None
    assert final.best["epoch"] == epoch and final.best["accuracy"] == max(accuracies)
    assert same(final.best["network"], states[epoch].network)
    assert len(set(accuracies)) > 1


def test_without_validation_there_is_no_best() -> None:
    plain = run()
    assert plain.best is None and "validation/natural" not in plain.history[-1]["metrics"]


def test_validation_is_never_trained_on_and_the_test_split_is_never_looked_at() -> None:
    changes = {"data__validation": 0.2, "training__epochs": 6, "training__milestones": []}
    reference = run(**changes)
    held_out = split_validation(DATASET.train_labels, 0.2)[1]
    altered = make_dataset()
    altered.train_images[held_out] = 255 - altered.train_images[held_out]
    altered.test_images[:] = 0
    altered.test_labels[:] = 0
    other = run(altered, **changes)
    assert same(reference.network, other.network)
    assert reference.history[-1]["metrics"]["train/loss"] == other.history[-1]["metrics"]["train/loss"]
    assert [e["metrics"]["validation/natural"] for e in reference.history] != [
        e["metrics"]["validation/natural"] for e in other.history
    ]
    only_test = make_dataset()
    only_test.test_images[:] = 0
    assert_same(reference, run(only_test, **changes))


@pytest.mark.parametrize("model", [{}, {"quantization": {"bits": 4, "activation_bits": 32, "fat": True}}])
def test_the_folded_network_is_validated_as_the_network_is_now(model: dict[str, Any]) -> None:
    # As on a GPU; on a CPU the network itself is asked.
    spec = spec_of(model={"arch": "test-tiny", **model}, data__validation=0.4)
    training = TrainingRun(spec, DATASET, CPU)
    plain = training.validation
    assert plain is not None and plain.measured is None
    folded = Validation(
        plain.images, plain.labels, plain.places.numpy(), spec.training.attack, 0, as_measured(training.network, SIZE)
    )
    training.set_learning_rate(1)
    found = []
    for number in range(3):
        training.network.train()
        found.append((plain.metrics(training.network), folded.metrics(training.network)))
        assert training.network.training
        for step in range(10):
            training.update(1, 10 * number + step, torch.arange(step, step + 12))
    assert all(one == other for one, other in found)
    assert len({tuple(one.values()) for one, _ in found}) > 1


def test_the_training_attack_judges_validation() -> None:
    changes = {"data__validation": 0.4, "training__epochs": 6, "training__milestones": []}
    metrics = run(**changes, training__attack__eps_255=20.0, training__attack__step_255=10.0).history[-1]["metrics"]
    assert metrics["validation/attack"] < metrics["validation/natural"]
    metrics = run(**changes, training__attack__name="none").history[-1]["metrics"]
    assert metrics["validation/attack"] == metrics["validation/natural"]


# Failures


def test_a_loss_that_is_no_number_is_an_error_with_its_epoch() -> None:
    with pytest.raises(TrainingError, match=r"loss became (nan|inf) in epoch 1"):
        run(training__learning_rate=1e30)


def test_outputs_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(TrainingError, match="outputs became nan or infinite in epoch 0"):
        run(model__arch="test-broken")


def test_read_only_arrays_can_be_trained_on() -> None:
    dataset = make_dataset()
    for array in (dataset.train_images, dataset.train_labels):
        array.setflags(write=False)
    assert_same(
        run(dataset, training__epochs=1, training__milestones=[]), run(training__epochs=1, training__milestones=[])
    )
