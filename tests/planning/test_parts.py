"""Columns that are made of others: each part is measured once, under the key of its own column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablate.core.errors import SpecError
from tests.support.tasks import planned


def test_a_column_made_of_others_names_them_by_the_keys_of_their_own_columns(tmp_path: Path) -> None:
    """Behind a filter too; what never asks the network has no adaptive column, and is the same attack in both."""
    sets = ["measurement.attacks=[natural, gn, pgd20, worst]", "measurement.lowpass_degree=6"]
    for trial in (plan := planned(tmp_path, *sets)).trials:
        measurements = plan.trainings[trial.training].measurements
        for kind, other in (("accuracy", "accuracy"), ("accuracy_adaptive", "accuracy")):
            parts = dict(measurements[trial.columns[f"{kind}/worst"]].parts)
            assert parts.keys() >= {"natural", "pgd20"}
            own = {name: trial.columns.get(f"{kind}/{name}", trial.columns[f"{other}/{name}"]) for name in parts}
            assert parts == own
        assert "accuracy_adaptive/natural" not in trial.columns or "accuracy_adaptive/gn" not in trial.columns


@pytest.mark.parametrize("name", ["apgd_t", "aa", "worst"])
def test_a_column_is_refused_where_a_part_of_it_needs_more_classes_than_there_are(name: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in "abc":
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for number in range(24):
                Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(folder / f"{number}.png")
    beside = {"worst": "[natural, aa, worst]"}.get(name, f"[natural, {name}]")
    data = ["data.name=imagefolder", f"data.root={tmp_path / 'data'}", "training.batch_size=16"]
    with pytest.raises(SpecError, match=r"attacks: (apgd_t|aa): expected data of at least 4 classes, got 3"):
        planned(tmp_path, *data, f"measurement.attacks={beside}")
