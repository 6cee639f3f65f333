"""Frequency analyses on data of another size and with other classes, chosen on the command line alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ablate.launch.__main__ import app
from ablate.report.contents import figure_data
from ablate.report.from_storage import results_of
from ablate.spaces.figures import drawer_of
from ablate.storage import plans
from ablate.storage.storage import Storage

SPACE = """\
title: Frequencies of any data
base:
  data: {name: digits, image_size: 8}
  model: {width: 0.25, depth: 8}
  training: {epochs: 1, batch_size: 50, attack.steps: 1}
  measurement: {attacks: [natural, pgd20_low, pgd20_mid, pgd20_high], heat_map_images: 10, transfer_from: [plain]}
rows:
  - {label: plain}
  - {label: longer, set: {training: {epochs: 2, keep: [1]}, measurement.attacks: [natural]}}
  - {label: trained low, set: {training.augmentation: {name: lowpass, degree: 3}}}
  - {label: low, set: {measurement.lowpass_degree: 6}}
  - {label: high, set: {measurement.highpass_degree: 3}}
  - {label: mean, set: {measurement: {highpass_degree: 3, highpass_keep_mean: true}}}
figures: ["2", gradient_spectrum, corruptions, transfer, epochs, filters, heat_map]
"""
CLASSES, SIZE = 100, 12
FIGURES = ("2", "gradient_spectrum", "corruptions", "transfer", "epochs", "filters", "heat_map")


def pictures(folder: Path) -> None:
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(CLASSES):
            place = folder / split / f"{label:02}"
            place.mkdir(parents=True)
            Image.fromarray(random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(place / "0.png")


@pytest.mark.slow
def test_a_hundred_classes_of_12_pixels_by_set_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(SPACE)
    pictures(tmp_path / "images")
    sets = ["data.name=imagefolder", "data.root=images", f"data.image_size={SIZE}"]
    others = [each for setting in sets for each in ("--set", setting)]
    done = CliRunner().invoke(app, ["--space", "own.yaml", *others, "--local", "--no-tracking"])
    assert done.exit_code == 0, done.output
    storage = Storage("storage")
    data = figure_data(results_of(plans.load(storage, space="own"), storage))
    seen = data.rows["plain"][0]
    assert seen.arrays["heat_map/error"].shape == seen.arrays["spectrum/difference"].shape == (SIZE, SIZE)
    assert data.rows["high"][0].settings["measurement"]["highpass_degree"] == 3
    assert {"pgd20_low", "pgd20_mid", "pgd20_high", "transfer_plain", "corruptions/mean"} <= seen.scalars.keys()
    for name in FIGURES:
        assert drawer_of(name)(data) is not None, name
