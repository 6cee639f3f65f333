"""Tiny searches that tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ablate.spaces.search import SearchSpec

BASE = {
    "model.width": 0.25,
    "model.depth": 8,
    "training.batch_size": 128,
    "training.crop_padding": 1,
    "training.attack.steps": 1,
    "training.epochs": 4,
    "data.name": "digits",
    "data.image_size": 8,
    "data.validation": 0.2,
    "measurement.attacks": ["natural"],
}
SEARCH: dict[str, Any] = {
    "parameters": {
        "training.learning_rate": {"loguniform": [0.001, 0.5]},
        "model.activation": {"choice": ["relu", "hardtanh"]},
    },
    "objective": {"metric": "validation/natural"},
    "samples": 6,
    "scheduler": {"name": "asha", "grace_epochs": 1, "reduction": 2},
}


def search_of(**changes: Any) -> SearchSpec:
    """The tiny search with some of its fields changed; None takes one out."""
    return SearchSpec.model_validate({key: value for key, value in {**SEARCH, **changes}.items() if value is not None})


def write_search(folder: Path, name: str = "tiny_search", base: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A search of six trainings of four epochs, each a second or two long."""
    search = {key: value for key, value in {**SEARCH, **changes}.items() if value is not None}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"title": "A tiny search", "base": {**BASE, **(base or {})}, "search": search}))
    return path


def trained_epochs(storage: Path) -> int:
    """Epochs that workers have really trained, from their own logs."""
    logs = "".join(path.read_text() for path in storage.glob("*/attempts/*/log.txt"))
    return sum(" INFO epoch " in line and " INFO epoch 0/" not in line for line in logs.splitlines())
