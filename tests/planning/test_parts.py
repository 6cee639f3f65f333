"""Columns that are made of others: each part is measured once, under the key of its own column."""

from __future__ import annotations

from pathlib import Path

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
