"""What is probably not meant is told in the plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.asking import plan_of
from ablate.cautions import cautions
from tests.helpers import options_of, write_space


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["training.learning_rate=0.2"], "overrides what the rows of tiny vary (training.learning_rate)"),
        (["measurement={lowpass_degree: 4}"], "overrides what the rows of tiny vary (measurement.lowpass_degree)"),
        (["training.learning_rate=0.2"], "rows 'small' and 'large' of tiny have the same settings"),
        (
            ["training.attack.eps_255=0.031"],
            "training.attack.eps_255: 0.031 is below one grey level, in 1/255: did you mean 8?",
        ),
        (
            ["measurement.step_255=0.00784"],
            "measurement.step_255: 0.00784 is below one grey level, in 1/255: did you mean 2?",
        ),
    ],
)
def test_what_is_probably_not_meant_is_told(tmp_path: Path, sets: list[str], told: str) -> None:
    write_space(tmp_path)
    assert any(told in each for each in cautions(plan_of(options_of(tmp_path, sets=sets))))


@pytest.mark.parametrize(
    "sets", [[], ["training.epochs=1"], ["training.attack.eps_255=4", "training.attack.step_255=0.5"]]
)
def test_nothing_is_told_of_what_is_meant(tmp_path: Path, sets: list[str]) -> None:
    write_space(tmp_path)
    assert cautions(plan_of(options_of(tmp_path, sets=sets))) == []
