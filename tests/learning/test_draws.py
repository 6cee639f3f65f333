"""Numbers that are drawn ahead are those that each step draws for itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablate.attacks.evaluation import as_float
from ablate.bench.cases import operations_of
from ablate.core import randomness
from ablate.learning import draws as drawing
from ablate.learning.attack_start import start_of
from ablate.learning.augmentation import crop_and_flip
from ablate.learning.draws import STEPS_AHEAD, Ahead, Draws
from ablate.spaces.specs import TrainingAttackSpec

CPU = torch.device("cpu")
STEPS = (0, 1, STEPS_AHEAD - 1, STEPS_AHEAD, 999)
EACH: dict[str, Callable[[Draws], Tensor]] = {
    "uniform": lambda now: now.uniform("a"),
    "several": lambda now: now.uniform("a", (2, 2)),
    "pixels": lambda now: now.uniform("a", (3, 8, 8)),
    "permutation": lambda now: now.permutation("a"),
    "beta": lambda now: now.beta("a", 0.4),
    "rows": lambda now: now.rows("a"),
    "windows": lambda now: now.windows(4, True),
}


@pytest.mark.parametrize("name", EACH)
@settings(max_examples=15)
@given(
    where=st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from(STEPS), st.sampled_from([5, 8])),
        min_size=1,
        max_size=6,
    )
)
def test_ahead_or_alone_in_any_order(name: str, where: list[tuple[int, int, int]]) -> None:
    ahead = Ahead(3, CPU)
    for epoch, step, count in where:
        assert torch.equal(EACH[name](ahead.draws(epoch, step, count)), EACH[name](Draws(3, epoch, step, count, CPU)))


def test_numbers_are_those_of_their_key() -> None:
    now, index = Ahead(3, CPU).draws(2, 5, 6), torch.arange(6)
    key = randomness.stream(3, "a", 2, 5)
    assert now.key("a") == key
    assert torch.equal(now.uniform("a", (3,)), randomness.uniform(key, index, (3,)))
    assert torch.equal(now.permutation("a"), randomness.permutation(key, 6))
    assert torch.equal(now.rows("a"), randomness.rows(key, index))
    crop = randomness.uniform(randomness.stream(3, "crop", 2, 5), index, (2,))
    flip = randomness.uniform(randomness.stream(3, "flip", 2, 5), index) < 0.5
    window = now.windows(4, True)
    assert torch.equal(window - 9 * torch.stack([torch.zeros(6), flip], 1).long(), (crop * 9).long())


def test_what_an_augmentation_does_to_its_numbers_stays_there() -> None:
    now = Ahead(3, CPU).draws(1, 0, 6)
    for draw in (now.uniform, now.permutation, lambda purpose: now.beta(purpose, 2.0)):
        first = draw("a")
        kept = first.clone()
        first.zero_()
        assert torch.equal(draw("a"), kept)


def test_numbers_are_drawn_for_many_steps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    draw = drawing.draw

    def counted(what: drawing.Drawn, steps: drawing.Steps, device: torch.device) -> Tensor:
        made.append(str(what[0]))
        return draw(what, steps, device)

    monkeypatch.setattr(drawing, "draw", counted)
    ahead = Ahead(0, CPU)
    for step in range(2 * STEPS_AHEAD):
        ahead.draws(1, step, 4).windows(4, True)
    assert made == ["windows"] * 2


def test_purposes_without_end_do_not_fill_the_memory() -> None:
    ahead = Ahead(0, CPU)
    for step in range(500):
        ahead.draws(1, 0, 4).uniform(f"purpose {step}")
    assert len(ahead.held) <= drawing.MOST_KINDS


def test_what_is_random_in_a_step_is_nine_operations_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # There the hash is one kernel; that it says the same is another test's.
    monkeypatch.setattr(randomness, "kernel_of", lambda device, result: torch.bitwise_xor)
    ahead = Ahead(0, CPU)
    images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)

    def step(number: int) -> None:
        now = ahead.draws(1, number, len(images))
        clean = as_float(crop_and_flip(images, now, padding=4, flip=True))
        start_of(TrainingAttackSpec(), clean, now, diverging=False)

    step(0)  # draws ahead
    assert operations_of(lambda: step(1)) <= 11  # two of them make floats of the images
