"""Images of several trainings in one process lie on the device once."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from ablate.learning import resident as residents
from ablate.learning.training import TrainingRun, train, train_in_turns
from ablate.learning.turns import in_turn
from tests.support.tiny_training import CPU, DATASET, assert_same, make_dataset, spec_of


@pytest.fixture(autouse=True)
def nothing_held() -> None:
    """What other tests still hold counts for nothing here."""
    residents.held.clear()


def test_trainings_of_one_data_set_share_its_images() -> None:
    spec = spec_of(data__validation=0.2)
    first, second = TrainingRun(spec, DATASET, CPU), TrainingRun(spec.model_copy(update={"seed": 1}), DATASET, CPU)
    assert first.images.data_ptr() == second.images.data_ptr() and first.labels.data_ptr() == second.labels.data_ptr()
    assert first.validation and second.validation
    assert first.validation.images.data_ptr() == second.validation.images.data_ptr() != first.images.data_ptr()
    other = replace(DATASET, train_labels=DATASET.train_labels[::-1].copy())
    for apart in (
        TrainingRun(spec_of(), DATASET, CPU),  # which holds nothing out
        TrainingRun(spec, make_dataset(seed=1), CPU),
        TrainingRun(spec, other, CPU),
    ):
        assert apart.images.data_ptr() != first.images.data_ptr() or apart.labels.data_ptr() != first.labels.data_ptr()
    changed = TrainingRun(spec, other, CPU)
    assert not torch.equal(changed.labels, first.labels)


def test_images_live_as_long_as_a_training_uses_them() -> None:
    first, second = TrainingRun(spec_of(), DATASET, CPU), TrainingRun(spec_of(), DATASET, CPU)
    kept = first.images.clone()
    del first
    gc.collect()
    assert len(residents.held) == 1 and torch.equal(second.images, kept)


def test_trainings_in_turn_that_share_images_are_those_alone() -> None:
    specs = {str(seed): spec_of(seed=seed, data__validation=0.2) for seed in range(2)}
    ended = {}
    works = {name: train_in_turns(spec, DATASET, device=CPU) for name, spec in specs.items()}
    most = 0

    def note(name: str, state: object) -> None:
        nonlocal most
        most = max(most, len(residents.held))
        ended[name] = state

    in_turn(works, note)
    del works
    assert most == 2  # what is trained on, and what is held out
    for name, spec in specs.items():
        assert_same(ended[name], train(spec, DATASET, device=CPU))
