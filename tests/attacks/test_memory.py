"""Several attempts at an image at once are made where memory allows: they never cost a measurement that would fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablate.attacks import APGD, Attack, Square, TargetedAPGD, TargetedFAB, square
from ablate.attacks.active_set import ROWS_AT_ONCE, rows_to_fill

COUNT = 6
ATTACKS = [
    TargetedAPGD(eps_255=6.0, steps=4, restarts=2),
    TargetedFAB(eps_255=6.0, steps=4, restarts=2),
    Square(eps_255=6.0, queries=40),
]


class Small(nn.Module):
    """A device that holds the activations of so many images."""

    def __init__(self, network: nn.Module, room: int, error: Exception) -> None:
        super().__init__()
        self.network, self.room, self.error, self.asked = network, room, error, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        if len(x) > self.room:
            raise self.error
        return self.network(x)


@pytest.fixture
def some(make_network, make_batch, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, Tensor, Tensor]:
    # A CPU's parts of 16 would hide how many images are asked about; in float64 that changes no outcome.
    monkeypatch.setattr("ablate.attacks.active_set.WHOLE_BATCHES", 1)
    monkeypatch.setattr(square, "rows_to_fill", lambda count, *_: 5 * count)
    monkeypatch.setitem(ROWS_AT_ONCE, True, 5 * COUNT)
    network = make_network(torch.float64)
    batch = make_batch(network, count=COUNT, dtype=torch.float64)
    with torch.no_grad():
        return network, batch.images, network(batch.images).argmax(1)


def made(attack: Attack, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return attack.perturb(network, images, labels, index=torch.arange(COUNT), seed=0)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDNN_STATUS_ALLOC_FAILED")], ids=repr
)
@pytest.mark.parametrize("room", [COUNT, 2 * COUNT])
def test_where_memory_runs_out_fewer_are_asked_about_at_once_with_the_same_outcome(
    some: Any, attack: Attack, error: Exception, room: int
) -> None:
    network, images, labels = some
    wanted = made(attack, roomy := Small(network, 10**6, error), images, labels)
    found = made(attack, small := Small(network, room, error), images, labels)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    assert max(roomy.asked) > 2 * COUNT and sum(size > room for size in small.asked) in (1, 2)


def test_memory_may_run_out_while_the_points_are_made(some: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images, labels = some
    wanted, own = made(ATTACKS[2], network, images, labels), square.corners_by_square

    def lacking(now: Tensor, *rest: Tensor) -> Tensor:
        if len(now) > COUNT:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(now, *rest)

    monkeypatch.setattr(square, "corners_by_square", lacking)
    assert torch.equal(made(ATTACKS[2], network, images, labels), wanted)


def test_a_device_that_is_no_cpu_is_filled_with_whole_attempts_at_all_images() -> None:
    gpu = torch.device("cuda")
    assert [rows_to_fill(count, gpu, 16) for count in (1, 3, 500, 3000)] == [16, 48, 2000, 3000]
    assert rows_to_fill(3, gpu, 2) == 6 and rows_to_fill(20, torch.device("cpu"), 1) == 32
    assert [rows_to_fill(count, torch.device("cpu"), 9) for count in (1, 20, 40, 60)] == [16, 48, 48, 64]


@pytest.mark.parametrize("attack", [*ATTACKS, APGD(eps_255=6.0, steps=4)], ids=lambda attack: attack.name)
def test_memory_that_does_not_hold_a_batch_is_told(some: Any, attack: Attack) -> None:
    network, images, labels = some
    with pytest.raises(torch.OutOfMemoryError):
        made(attack, Small(network, COUNT - 1, torch.OutOfMemoryError("CUDA out of memory")), images, labels)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_another_error_is_no_lack_of_memory(some: Any, attack: Attack) -> None:
    network, images, labels = some
    with pytest.raises(RuntimeError, match="another"):
        made(attack, Small(network, COUNT, RuntimeError("another")), images, labels)
