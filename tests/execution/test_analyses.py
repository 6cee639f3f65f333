"""Measurements with settings of their own reach what measures them; bands that images lack fail there alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ablate.attacks import BandPGD, register_attack
from ablate.core.registry import temporary_registrations
from ablate.execution import worker
from ablate.execution.analyses import AnalysisInputs, analyse
from ablate.learning import data
from ablate.spaces.measurement import MeasurementSpec
from ablate.spaces.planned_measurement import PlannedMeasurement
from ablate.spaces.specs import DataSpec
from ablate.storage.storage import Storage
from tests.support.tasks import planned, task


def test_norm_and_number_of_images_of_a_heat_map_change_what_it_finds() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3)).eval()
    inputs = AnalysisInputs(
        network, network, torch.randint(0, 256, (40, 3, 8, 8)).to(torch.uint8), torch.arange(40) % 3, 0
    )

    def found(**settings: float) -> float:
        asked = MeasurementSpec.model_validate({"heat_map_norm": 1.0, "heat_map_images": 30, **settings})
        measured = PlannedMeasurement("ab" * 10, "analysis", "heat_map", "last", None, False, asked)
        return analyse(measured, inputs, lambda part, whole: None).scalars["heat_map/error_low"]

    plain = found()
    assert plain == found() and plain != found(heat_map_norm=3.0) and plain != found(heat_map_images=10)


def test_a_band_that_such_images_lack_is_told_in_a_line_with_its_column_and_the_rest_is_measured(
    tmp_path: Path,
) -> None:
    with temporary_registrations():
        register_attack("beyond")(lambda spec: BandPGD(name="beyond", band=(3, 9), steps=1))
        plan = planned(tmp_path, "measurement.attacks=[beyond, natural]", "measurement.lowpass_degree=null")
        doing, storage = task(plan, Storage(str(tmp_path / "storage"))), Storage(str(tmp_path / "storage"))
        outcome = worker.run(doing, data.load(DataSpec(name="digits", image_size=8), Path()), lambda event: None)
    assert outcome.state == "failed"
    assert outcome.reason == (
        "beyond: expected a band from a lower to an upper edge within 0 to 4 cycles per image "
        "(images of 8 x 8 pixels), got 3 to 9"
    )
    there = storage.view(doing.key).records
    assert {m.name for m in doing.measurements if m.key in there} == {"natural"}
