"""What a launch loads: the data of all that it may train, and what is measured on them besides only where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ablate.launch.request import Request
from ablate.learning.data import Dataset
from ablate.planning.datasets import load_for
from ablate.storage.storage import Storage
from tests.support.helpers import options_of
from tests.support.search_helpers import write_search

OFFICIAL = {"fog": np.zeros((5, 1, 3, 8, 8), np.uint8)}
SPACE = """\
title: Corruptions of one row
base: {model.width: 0.25, model.depth: 8, training.batch_size: 64, training.epochs: 1, data.name: digits,
       data.image_size: 8, measurement.attacks: [natural]}
looks: [2, 3]
rows:
  - {label: first}
  - {label: second, set: {training.learning_rate: 0.5, measurement.analyses: [ANALYSIS]}}
  - {label: larger, set: {data.image_size: 10}}
claims:
  - {says: clear, above: {row: first, rows: [second, larger], metrics: [natural]}}
"""


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch, **asked: object) -> dict[int, Dataset]:
    """Size of the images -> the data that a launch loads."""
    options = options_of(folder, **asked)
    storage = Storage(options.storage)
    subject = Request.read(options).subject(storage)
    subject.decide(storage, options)
    monkeypatch.setattr("ablate.learning.data.load_official", lambda spec, data_root: OFFICIAL)
    return {found.test_images.shape[-1]: found for found in load_for(subject.may_train(), folder).values()}


@pytest.mark.parametrize("until", [False, True])
@pytest.mark.parametrize("analysis", ["corruptions", "first_kernels"])
def test_official_corruptions_are_loaded_for_the_data_they_are_measured_on_alone(
    analysis: str, until: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.yaml").write_text(SPACE.replace("ANALYSIS", analysis))
    found = loaded(tmp_path, monkeypatch, until_decided=until)
    assert found.keys() == {8, 10} and found[10].corrupted is None
    assert found[8].corrupted == (OFFICIAL if analysis == "corruptions" else None)


@pytest.mark.parametrize("analyses", [[], ["corruptions"]])
def test_a_search_loads_them_where_its_samples_are_measured_on_them(
    analyses: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_search(tmp_path, "tiny", {"measurement.analyses": analyses})
    assert loaded(tmp_path, monkeypatch)[8].corrupted == (OFFICIAL if analyses else None)
