"""Replayed steps, on a CPU: what stands in for a captured graph is the step itself, run with the memory it reads."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablate.learning import graphs, training
from ablate.learning.augmentation import register_augmentation
from ablate.learning.draws import Draws
from ablate.learning.graphs import Step, StepGraphs
from ablate.learning.models import register_network
from ablate.learning.state import TrainingState
from ablate.learning.training import TrainingRun
from ablate.spaces.specs import AugmentationSpec, ModelSpec
from tests.support.tiny_training import CPU, DATASET, assert_same, run, spec_of, tiny


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[TrainingState, dict[str, Any]]]:
    """Trains by replaying; returns the state, and what was captured, replayed and warned of."""

    def train(capture: Callable[[Step], Step] | None = None, **changes: Any) -> tuple[TrainingState, dict[str, Any]]:
        seen: dict[str, Any] = {"captured": 0, "replayed": 0, "warnings": []}

        def counted(step: Step) -> Step:
            seen["captured"] += 1
            made = step if capture is None else capture(step)

            def replay() -> tuple[Tensor, Tensor]:
                seen["replayed"] += 1
                return made()

            return replay

        made = TrainingRun.__init__

        def with_graphs(self: TrainingRun, *args: Any, **kwargs: Any) -> None:
            made(self, *args, **kwargs)
            self.graphs = StepGraphs(self, capture=counted, warn=seen["warnings"].append)

        monkeypatch.setattr(training.TrainingRun, "__init__", with_graphs)
        state = run(**changes)
        monkeypatch.setattr(training.TrainingRun, "__init__", made)
        return state, seen

    return train


MANY = {"training__epochs": 5, "training__milestones": [{"epoch": 3, "factor": 0.1}]}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training__batch_size": 9},  # the last batch of an epoch is smaller: a graph of its own
        {"training__attack": {"name": "none"}},
        {"training__attack__network_mode": "train"},
        {"training__augmentation": {"name": "mixup", "beta": 0.5}},
        {"training__augmentation": {"name": "cutmix", "order": "clean", "beta": 0.5}},
        {"training__augmentation": {"name": "cutout"}},
        {"training__crop_padding": 0, "training__flip": False},
        {"model__quantization": {"bits": 4, "fat": True}},
        {"model__arch": "test-dropout"},
        {"training__objective": "trades", "training__awp": 0.01, "training__schedule": "cosine"},
        {"training__objective": "mart", "training__attack__name": "n_fgsm", "training__schedule": "one_cycle"},
        {"training__attack__name": "fgsm_rs", "training__label_smoothing": 0.1, "training__schedule": "cyclic"},
        {"training__ema": {"decay": 0.8, "start": 2}, "training__keep": [3]},
        {"training__ema": {"decay": 0.9, "normalization": "recalibrated"}, "data__validation": 0.2},
    ],
)
def test_replays_are_the_steps_themselves(changes: dict[str, Any], replayed: Any) -> None:
    state, seen = replayed(**MANY | changes)
    assert not seen["warnings"] and seen["replayed"] > seen["captured"] > 0
    assert_same(state, run(**MANY | changes))


def test_a_step_that_cannot_be_captured_runs_as_it_is(replayed: Any) -> None:
    def fails(step: Step) -> Step:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    state, seen = replayed(capture=fails, **MANY)
    assert seen["warnings"] == [
        "steps run one operation at a time: RuntimeError: operation not permitted when stream is capturing"
    ]
    assert seen["captured"] == 1 and seen["replayed"] == 0
    assert_same(state, run(**MANY))


def test_out_of_memory_is_told_as_such(replayed: Any) -> None:
    def fails(step: Step) -> Step:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        replayed(capture=fails, **MANY)


@register_network("test-host-randomness")
def host_randomness(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = tiny(spec, num_classes, image_size)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(x)
            return out * random.choice([0.1, 10.0, 40.0]) if self.training else out

    return Noisy()


def test_what_a_graph_would_have_baked_in_is_found_out(replayed: Any) -> None:
    # As a captured graph does: the second time, what was computed the first time, whatever the host would draw now.
    def baked(step: Step) -> Step:
        drawn = random.getstate()

        def replay() -> tuple[Tensor, Tensor]:
            now = random.getstate()
            random.setstate(drawn)
            made = step()
            random.setstate(now)
            return made

        random.random()
        return replay

    random.seed(3)
    _, seen = replayed(capture=baked, model__arch="test-host-randomness", **MANY)
    assert len(seen["warnings"]) == 1 and "its replay differs" in seen["warnings"][0]
    assert seen["replayed"] == 1


@register_augmentation("test-by-step")
def by_step(images: Tensor, targets: Tensor, draws: Draws, spec: AugmentationSpec) -> tuple[Tensor, Tensor]:
    return images * (1.0 if draws.step % 2 else 0.5), targets


def test_an_augmentation_that_looks_at_the_step_itself_runs_as_it_is(replayed: Any) -> None:
    changes = MANY | {"training__augmentation": {"name": "test-by-step"}}
    state, seen = replayed(**changes)
    assert len(seen["warnings"]) == 1 and "'step'" in seen["warnings"][0]
    assert_same(state, run(**changes))


def test_a_captured_step_keeps_alive_what_it_reads() -> None:
    # A graph reads addresses: memory that nobody holds is given to others, and the graph computes with what they write.
    training_run = TrainingRun(spec_of(), DATASET, CPU)
    kept: list[Step] = []

    def capture(step: Step) -> Step:
        kept.append(step)
        return graphs.cuda_graph(step) if torch.cuda.is_available() else step

    made = StepGraphs(training_run, capture=capture, warn=pytest.fail)
    training_run.set_learning_rate(1)
    for number in range(graphs.WARM_UP + 1):
        made.step(1, number, torch.arange(12))
    (step,) = kept
    held = [cell.cell_contents for cell in step.__closure__ or ()]
    assert any(isinstance(value, Tensor) and value.shape == (12,) for value in held)
    assert any(value is training_run for value in held)
