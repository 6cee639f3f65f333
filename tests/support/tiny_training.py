"""A training small enough for the tests of its properties, and how two are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablate.learning.data import Dataset
from ablate.learning.models import register_network
from ablate.learning.state import TrainingState
from ablate.learning.training import train
from ablate.spaces.specs import ModelSpec, TrialSpec

CPU = torch.device("cpu")
SIZE, CLASSES, COUNT = 8, 3, 40


@register_network("test-tiny")
def tiny(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    activation = nn.ReLU if spec.activation == "relu" else nn.Hardtanh
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        activation(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(6),
        activation(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, num_classes),
    )


@register_network("test-dropout")
def dropout(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    return nn.Sequential(tiny(spec, 8, image_size), nn.Dropout(0.5), nn.Linear(8, num_classes))


@register_network("test-broken")
def broken(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    network = tiny(spec, num_classes, image_size)
    nn.init.constant_(list(network.parameters())[-1], torch.nan)
    return network


def make_dataset(count: int = COUNT, seed: int = 0) -> Dataset:
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    images = generator.integers(0, 120, (count, 3, SIZE, SIZE))
    images[np.arange(count), labels] += 90  # the class is the brighter colour
    return Dataset(
        name="digits",
        label="colours",
        classes=("red", "green", "blue"),
        train_images=images.astype(np.uint8),
        train_labels=labels,
        test_images=images[:6].astype(np.uint8),
        test_labels=labels[:6].copy(),
    )


DATASET = make_dataset()


def spec_of(**changes: Any) -> TrialSpec:
    """A tiny trial; keys of the changes are dotted paths with __ for the dots."""
    settings: dict[str, Any] = {
        "data": {"name": "digits", "image_size": SIZE},
        "model": {"arch": "test-tiny"},
        "training": {
            "epochs": 3,
            "batch_size": 12,
            "crop_padding": 1,
            "milestones": [{"epoch": 1, "factor": 0.1}],
            "attack": {"steps": 2},
        },
    }
    for path, value in changes.items():
        *groups, name = path.split("__")
        place = settings
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return TrialSpec.model_validate(settings)


def run(dataset: Dataset = DATASET, state: TrainingState | None = None, **changes: Any) -> TrainingState:
    return train(spec_of(**changes), dataset, device=CPU, state=state)


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    clock = {"seconds", "images_per_second"}
    return [
        {"epoch": e["epoch"], "metrics": {k: v for k, v in e["metrics"].items() if k not in clock}} for e in history
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def assert_same(a: TrainingState, b: TrainingState) -> None:
    assert a.epoch == b.epoch and timeless(a.history) == timeless(b.history)
    assert same(a.network, b.network) and same(a.optimizer, b.optimizer) and same(a.best, b.best)
    assert a.keeps == b.keeps and same(a.averages, b.averages) and same(a.kept, b.kept)
