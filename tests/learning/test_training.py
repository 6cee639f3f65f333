from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ablate.core.errors import SpecError
from ablate.learning import training as training_module
from ablate.learning.augmentation import register_augmentation
from ablate.learning.draws import Draws
from ablate.learning.models import register_network
from ablate.learning.state import TrainingState
from ablate.learning.training import train
from ablate.spaces.specs import AugmentationSpec, ModelSpec
from tests.support.tiny_training import (
    CLASSES,
    COUNT,
    CPU,
    DATASET,
    SIZE,
    assert_same,
    run,
    same,
    spec_of,
    tiny,
)


def different(a: TrainingState, b: TrainingState) -> bool:
    return not same(a.network, b.network)


# Learning


@pytest.mark.parametrize("attack", ["pgd", "none"])
def test_it_learns(attack: str) -> None:
    changes = {"training__epochs": 12, "training__milestones": [], "training__attack__name": attack}
    state = run(**changes, training__attack__eps_255=2.0)
    losses = [entry["metrics"]["train/loss"] for entry in state.history[1:]]
    assert losses[-1] < 0.6 * losses[0]
    assert (
        state.history[-1]["metrics"]["train/accuracy_natural"]
        > 80
        > state.history[0]["metrics"]["train/accuracy_natural"]
    )


def test_adversarial_examples_are_harder_than_natural_ones() -> None:
    changes = {"training__epochs": 6, "training__milestones": []}
    natural, adversarial = (run(**changes, training__attack__name=name) for name in ("none", "pgd"))
    assert adversarial.history[-1]["metrics"]["train/loss"] > natural.history[-1]["metrics"]["train/loss"]


def test_one_step_is_textbook_pgd_training() -> None:
    # The textbook, written out: every image once, attacked in eval mode, SGD with momentum and weight decay.
    changes = {
        "training__epochs": 1,
        "training__milestones": None,
        "training__batch_size": COUNT,
        "training__crop_padding": 0,
        "training__flip": False,
        "training__attack__random_start": False,
    }
    before: list[TrainingState] = []
    after = train(spec_of(**changes), DATASET, device=CPU, on_epoch=before.append)
    network = tiny(ModelSpec(), CLASSES, SIZE)
    network.load_state_dict(before[0].network)
    images, labels = torch.from_numpy(DATASET.train_images) / 255, torch.from_numpy(DATASET.train_labels)
    network.eval()
    adversarial = images
    for _ in range(2):
        adversarial = adversarial.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(network(adversarial), labels), adversarial)
        moved = adversarial + 2 / 255 * gradient.sign()
        adversarial = torch.clamp(images + torch.clamp(moved - images, -8 / 255, 8 / 255), 0, 1).detach()
    network.train()
    loss = nn.functional.cross_entropy(network(adversarial), labels)
    loss.backward()
    torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4).step()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(after.network[name], value, rtol=1e-4, atol=1e-6)
    assert after.history[1]["metrics"]["train/loss"] == pytest.approx(loss.item(), rel=1e-4)


# Going on

STOPPED = {
    "training__augmentation__name": "bandstop",
    "training__augmentation__degree": 3,
    "training__augmentation__outer_degree": 5,
}


def resumable(**changes: Any) -> dict[str, Any]:
    return {"data__validation": 0.2, "training__augmentation__name": "cutmix", **changes}


@pytest.mark.parametrize("changes", [{}, {"model__arch": "test-dropout"}, {"training__momentum": 0.0}, STOPPED])
def test_going_on_from_any_epoch_gives_the_same_bits(changes: dict[str, Any]) -> None:
    changes = resumable(**changes)
    states: list[TrainingState] = []
    final = train(spec_of(**changes), DATASET, device=CPU, on_epoch=states.append)
    assert [state.epoch for state in states] == [0, 1, 2, 3] and states[-1] is final
    for state in states:
        seen: list[TrainingState] = []
        resumed = train(spec_of(**changes), DATASET, device=CPU, state=state, on_epoch=seen.append)
        assert_same(resumed, final)
        assert [one.epoch for one in seen] == list(range(state.epoch + 1, 4))
        assert resumed.history[: state.epoch + 1] == state.history  # timestamps too
    assert_same(run(**changes), final)


def test_a_state_survives_torch_save_with_weights_only() -> None:
    states: list[TrainingState] = []
    final = train(spec_of(**resumable()), DATASET, device=CPU, on_epoch=states.append)
    buffer = io.BytesIO()
    torch.save(vars(states[2]), buffer)
    buffer.seek(0)
    assert_same(run(state=TrainingState(**torch.load(buffer, weights_only=True)), **resumable()), final)


def test_states_that_were_handed_out_never_change() -> None:
    kept: list[tuple[TrainingState, TrainingState]] = []
    deep = training_module.copy.deepcopy
    final = train(spec_of(**resumable()), DATASET, device=CPU, on_epoch=lambda state: kept.append((state, deep(state))))
    run(state=kept[1][0], **resumable())
    for state, copied in [*kept, (final, kept[-1][1])]:
        assert_same(state, copied)


def test_nothing_depends_on_or_touches_global_random_numbers() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()
    first = run(model__arch="test-dropout")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tobytes()
    torch.manual_seed(2)
    assert_same(first, run(model__arch="test-dropout"))


# No inert option


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"data__validation": 0.2},
        {"model__activation": "hardtanh"},
        {"model__quantization__bits": 4},
        {"training__batch_size": 10},
        {"training__learning_rate": 0.05},
        {"training__learning_rate_scaling": "linear"},
        {"training__momentum": 0.5},
        {"training__weight_decay": 0.01},
        {"training__milestones": [{"epoch": 2, "factor": 0.1}]},
        {"training__milestones": [{"epoch": 1, "factor": 0.5}]},
        {"training__crop_padding": 0},
        {"training__flip": False},
        {"training__precision": "bfloat16"},
        {"training__attack__name": "none"},
        {"training__attack__steps": 3},
        {"training__attack__eps_255": 4.0},
        {"training__attack__step_255": 1.0},
        {"training__attack__random_start": False},
        {"training__attack__network_mode": "train"},
        {"training__augmentation__name": "mixup"},
        {"training__augmentation__name": "cutout"},
        {"training__augmentation__name": "cutmix"},
    ],
    ids=str,
)
def test_every_option_changes_the_run(changes: dict[str, Any], plain: TrainingState) -> None:
    other = run(**changes)
    assert different(plain, other)
    assert other.epoch == 3 and all(np.isfinite(v) for entry in other.history for v in entry["metrics"].values())


@pytest.fixture(scope="module")
def plain() -> TrainingState:
    return run()


@pytest.mark.parametrize("name", ["mixup", "cutout", "cutmix"])
@pytest.mark.parametrize("option", [{"order": "clean"}, {"beta": 3.0}, {"bce_reduction": "sum"}], ids=str)
def test_every_option_of_augmentation_changes_the_run(name: str, option: dict[str, Any]) -> None:
    base = {"training__augmentation__name": name, "training__epochs": 1, "training__milestones": []}
    change = {f"training__augmentation__{key}": value for key, value in option.items()}
    matters = not (name == "cutout" and "bce_reduction" in option)  # it keeps hard labels and cross-entropy
    assert different(run(**base), run(**base, **change)) == matters


def test_every_filter_changes_the_run_and_so_do_its_order_and_degrees() -> None:
    def trained(**changes: Any) -> TrainingState:
        settings = {f"training__augmentation__{key}": value for key, value in changes.items()}
        return run(training__epochs=1, training__milestones=[], **settings)

    runs = [
        trained(),
        trained(name="lowpass", degree=3),
        trained(name="lowpass", degree=5),
        trained(name="lowpass", degree=3, order="clean"),
        trained(name="highpass", degree=3),
        trained(name="highpass", degree=3, order="clean"),
        trained(name="bandstop", degree=3, outer_degree=5),
        trained(name="bandstop", degree=1, outer_degree=5),
        trained(name="bandstop", degree=3, outer_degree=7),
    ]
    assert all(different(one, other) for number, one in enumerate(runs) for other in runs[:number])


def test_without_an_attack_there_is_one_order_and_one_radius() -> None:
    base = {"training__augmentation__name": "cutmix", "training__attack__name": "none", "data__validation": 0.2}
    first = run(**base)
    assert_same(first, run(**base, training__augmentation__order="clean", training__attack__eps_255=1.0))


# What is attacked, and how


@pytest.mark.parametrize("order", ["clean", "adversarial"])
def test_order_decides_what_is_attacked_and_with_which_loss(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    original = training_module.ascend

    def spying_ascend(network: Any, images: Tensor, loss: Callable[[Tensor], Tensor], **settings: Any) -> Tensor:
        # At equal logits cross-entropy is log K for each image, binary cross-entropy log 2.
        each = loss(torch.zeros(len(images), CLASSES)).item() / len(images)
        events.append("attack with " + ("bce" if each == pytest.approx(np.log(2), rel=1e-4) else "ce"))
        assert each == pytest.approx(np.log(2), rel=1e-4) or each == pytest.approx(np.log(CLASSES), rel=1e-4)
        return original(network, images, loss, **settings)

    @register_augmentation("test-softened")
    def softened(images: Tensor, targets: Tensor, draws: Draws, spec: AugmentationSpec) -> tuple[Tensor, Tensor]:
        events.append("augment")
        return images, 0.9 * targets

    monkeypatch.setattr(training_module, "ascend", spying_ascend)
    run(
        training__epochs=1,
        training__milestones=[],
        training__batch_size=COUNT,
        training__augmentation__name="test-softened",
        training__augmentation__order=order,
    )
    expected = {"clean": ["augment", "attack with bce"], "adversarial": ["attack with ce", "augment"]}
    assert events == expected[order]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_network_is_attacked_in_the_given_mode_and_updated_in_train_mode(mode: str) -> None:
    seen: list[bool] = []

    @register_network(f"test-watched-{mode}")
    def watched(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
        return Watched(tiny(spec, num_classes, image_size))

    class Watched(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            seen.append(self.training)
            if x.max() < 0:  # a branch on values cannot be traced: the attack asks the network itself
                raise AssertionError
            return self.network(x)

    changes = {"training__epochs": 1, "training__milestones": [], "training__batch_size": COUNT}
    run(**changes, model__arch=f"test-watched-{mode}", training__attack__network_mode=mode)
    measured = [False, False]  # first activation and natural accuracy
    traced = [True, False, False] if mode == "eval" else []  # in vain
    assert seen == [*traced, *measured, mode == "train", mode == "train", True, *measured]


def test_attack_stays_in_the_ball_and_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    original = training_module.ascend
    distances = []

    def spying_ascend(network: Any, images: Tensor, loss: Any, **settings: Any) -> Tensor:
        out = original(network, images, loss, **settings)
        distances.append((out - images).abs().max().item())
        assert out.min() >= 0 and out.max() <= 1
        return out

    monkeypatch.setattr(training_module, "ascend", spying_ascend)
    run(training__attack__eps_255=3.0)
    assert max(distances) <= 3 / 255 + 1e-6 and max(distances) > 2.9 / 255


def test_what_a_filter_leaves_is_attacked_in_the_whole_ball_and_held_in_no_range(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = training_module.ascend
    seen: list[tuple[Tensor, Tensor]] = []

    def spying_ascend(network: Any, images: Tensor, loss: Any, **settings: Any) -> Tensor:
        out = original(network, images, loss, **settings)
        seen.append((images, out))
        return out

    monkeypatch.setattr(training_module, "ascend", spying_ascend)
    highpass = {"training__augmentation__name": "highpass", "training__augmentation__degree": 3}
    run(training__epochs=1, training__milestones=[], training__augmentation__order="clean", **highpass)
    assert all(images.min() < 0 for images, _ in seen)  # around 0: half of the pixels
    moved = torch.cat([(out - images).flatten() for images, out in seen])
    assert moved.abs().max() <= 8 / 255 + 1e-6 and moved.min() < -7.9 / 255 and moved.max() > 7.9 / 255
    seen.clear()
    run(training__epochs=1, training__milestones=[], **highpass)
    assert all(images.min() >= 0 and out.min() >= 0 and out.max() <= 1 for images, out in seen)  # attacked as they are


# Batches


@pytest.mark.parametrize(("batch_size", "sizes"), [(12, [12, 12, 12, 4]), (13, [13, 13, 13]), (20, [20, 20])])
def test_every_image_once_an_epoch_but_no_batch_of_one(
    batch_size: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    original = training_module.TrainingRun.step

    def step(self: Any, pixels: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        seen.append(pixels)
        return original(self, pixels, labels, draws)

    monkeypatch.setattr(training_module.TrainingRun, "step", step)
    run(training__batch_size=batch_size, training__epochs=2, training__milestones=[])
    assert [len(batch) for batch in seen] == sizes * 2
    epochs = [
        [image.numpy().tobytes() for batch in part for image in batch]
        for part in (seen[: len(sizes)], seen[len(sizes) :])
    ]
    everything = {image.tobytes() for image in DATASET.train_images}
    for images in epochs:
        assert len(set(images)) == len(images) == sum(sizes) and set(images) <= everything
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("name", ["mixup", "cutout", "cutmix"])
def test_odd_batches_can_be_mixed(name: str) -> None:
    run(training__augmentation__name=name, training__batch_size=7, training__epochs=1, training__milestones=[])


def test_a_batch_larger_than_the_training_images_is_refused() -> None:
    with pytest.raises(SpecError, match=r"training\.batch_size of at most the 32 training images of colours, got 40"):
        run(training__batch_size=40, data__validation=0.2)
    assert run(training__batch_size=32, data__validation=0.2, training__epochs=1, training__milestones=[]).epoch == 1


# Speed


@pytest.mark.parametrize("bits", [32, 4])
def test_compiled_training_is_the_same_training_in_two_graphs(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Code generation takes a minute, so the graphs that torch.compile captures are run as they are.
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    changes = {"training__milestones": [], "model__quantization": {"bits": bits, "fat": bits == 4}}
    eager = run(**changes)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    compiled = run(**changes, training__compile=True)
    for name, value in eager.network.items():
        torch.testing.assert_close(compiled.network[name], value, rtol=1e-3, atol=1e-4)
    assert eager.network.keys() == compiled.network.keys()
    assert len(graphs) == 2  # one for the attack, one for the update, however many steps and epochs


def test_bfloat16_stays_near_float32_and_keeps_float32_weights() -> None:
    changes = {"training__epochs": 1, "training__milestones": []}
    full, half = run(**changes), run(**changes, training__precision="bfloat16")
    assert half.history[1]["metrics"]["train/loss"] == pytest.approx(full.history[1]["metrics"]["train/loss"], rel=0.05)
    assert all(half.network[name].dtype == value.dtype for name, value in full.network.items())
