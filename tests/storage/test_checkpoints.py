"""A checkpoint's bytes: they come back whole, and what is none is refused by name."""

from __future__ import annotations

import io

import pytest
import torch

from ablate.core.errors import StorageError
from ablate.learning.state import TrainingState
from ablate.storage.checkpoints import load_state, save_network, save_state


class Code:
    """What only unpickling could bring back."""


def packed(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def test_a_checkpoint_comes_back_whole() -> None:
    history = [{"epoch": 0, "timestamp_ms": 1, "metrics": {"energy/ratio": 1.5}}]
    best = {"epoch": 1, "accuracy": 50.0, "network": {"weight": torch.ones(2)}}
    state = TrainingState(3, {"weight": torch.arange(3.0)}, {"state": {}, "param_groups": []}, history, best)
    again = TrainingState(**load_state(save_state(state)))
    assert again.epoch == 3 and again.history == history
    assert torch.equal(again.network["weight"], state.network["weight"])
    assert again.best is not None and torch.equal(again.best["network"]["weight"], torch.ones(2))


def test_a_network_alone_is_read_by_torch() -> None:
    network = {"weight": torch.arange(3.0)}
    again = torch.load(io.BytesIO(save_network(network)), weights_only=True)
    assert torch.equal(again["weight"], network["weight"])


def test_another_layout_is_refused_by_name() -> None:
    with pytest.raises(StorageError, match="layout 1, got 99"):
        load_state(packed({"layout": 99}))


@pytest.mark.parametrize(
    "content", [b"", b"checkpoint 3", packed([1]), packed({"layout": 1}), packed({"layout": Code()})]
)
def test_what_is_no_checkpoint_is_refused(content: bytes) -> None:
    with pytest.raises(StorageError, match="expected a checkpoint, got"):
        load_state(content)
