"""What tables say of robust overfitting below their numbers."""

from __future__ import annotations

import pytest

from ablate.report import overfitting
from ablate.report.overfitting import BestEpoch
from ablate.report.results import Results


def test_rows_of_one_training_say_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = BestEpoch(25, 30, 0.89), BestEpoch(2, 30, 11.22)
    rows = {"32": one, "28": one, "Natural {0}": other, "16": one}
    monkeypatch.setattr(overfitting, "best_epochs", lambda results: rows)
    told = overfitting.sentence(Results({}, {}))
    assert told.endswith(
        "would gain 0.89 points for 32 and 2 more (epoch 25 of 30), 11.22 points for Natural {0} (epoch 2 of 30)"
    )
