from __future__ import annotations

import pytest
import torch
from torch import nn

from ablate.learning.models import build_network, parameter_groups
from ablate.spaces.specs import ModelSpec, QuantizationSpec, TrainingSpec


def _groups(training: TrainingSpec, **quantization: float | bool) -> tuple[nn.Module, list[dict[str, object]]]:
    model = ModelSpec(depth=8, quantization=QuantizationSpec(bits=4, **quantization))  # type: ignore[arg-type]
    network = build_network(model, 10, 16, 0)
    return network, parameter_groups(network, training, model)


def test_one_group_holds_everything_by_default() -> None:
    network, groups = _groups(TrainingSpec(), fat=True)
    assert len(groups) == 1
    assert groups[0]["params"] == list(network.parameters())
    assert (groups[0]["lr"], groups[0]["initial_lr"], groups[0]["weight_decay"]) == (0.1, 0.1, 5e-4)


@pytest.mark.parametrize(
    "options, rate, decay",
    [
        ({"fat_learning_rate": 0.01}, 0.01, 5e-4),
        ({"fat_weight_decay": 0.0}, 0.1, 0.0),
        ({"fat_learning_rate": 0.01, "fat_weight_decay": 1e-3}, 0.01, 1e-3),
    ],
)
def test_masks_are_apart_with_settings_of_their_own(options: dict[str, float], rate: float, decay: float) -> None:
    network, (rest, masks) = _groups(TrainingSpec(), fat=True, **options)
    assert (rest["lr"], rest["weight_decay"]) == (0.1, 5e-4)
    assert (masks["lr"], masks["initial_lr"], masks["weight_decay"]) == (rate, rate, decay)
    expected = {id(p) for name, p in network.named_parameters() if name.endswith("mask.weight")}
    assert {id(p) for p in masks["params"]} == expected  # type: ignore[attr-defined]
    together = [id(p) for group in (rest, masks) for p in group["params"]]  # type: ignore[attr-defined]
    assert sorted(together) == sorted(id(p) for p in network.parameters())
    torch.optim.SGD([rest, masks], momentum=0.9)


def test_the_rate_is_that_of_the_first_epoch() -> None:
    _, (group,) = _groups(TrainingSpec(batch_size=128, learning_rate_scaling="linear", weight_decay=0.1))
    assert (group["initial_lr"], group["weight_decay"]) == (0.025, 0.1)
