"""Trainings of other storages: what is taken over is never of another network than what is here already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ablate.launch.other_storages import OtherStorages
from ablate.planning.plan import PlannedTraining
from ablate.spaces.specs import TrialSpec
from ablate.storage.storage import Storage
from tests.support.stored import content
from tests.support.tracking_world import measure, plan_of, train


@pytest.mark.parametrize("again", [0, 1], ids=["the same bits", "other bits"])
def test_records_of_another_network_are_not_taken_beside_ones_own(tmp_path: Path, again: int) -> None:
    """Ours is measured in part and has lost its network; theirs came of the same settings on another machine."""
    own, theirs = Storage(str(tmp_path / "own")), Storage(str(tmp_path / "theirs"))
    [trial] = plan_of(["512"]).trials
    measure(train(own, trial.training), trial, count=1)
    own.prune(trial.training)
    measure(train(theirs, trial.training, again=again), trial, again=again)
    before = content(own)
    measurements: Any = dict.fromkeys(trial.measurements)
    wanted = PlannedTraining(
        trial.training, {}, TrialSpec.model_validate(trial.spec), ["batch_size/512"], measurements=measurements
    )
    others = OtherStorages([theirs.location], own)
    seen = others.storage.view(trial.training).records.keys()
    others.take(wanted)
    taken = own.view(trial.training).records.keys()
    assert seen == taken == (trial.measurements if again == 0 else set(list(trial.columns.values())[:1]))
    assert (content(own) == before) == (again == 1)


def test_what_was_only_begun_here_is_taken_whole(tmp_path: Path) -> None:
    own, theirs = Storage(str(tmp_path / "own")), Storage(str(tmp_path / "theirs"))
    [trial] = plan_of(["512"]).trials
    train(own, trial.training, 1)
    measure(train(theirs, trial.training, again=1), trial, again=1)
    others = OtherStorages([theirs.location], own)
    others.take(PlannedTraining(trial.training, {}, TrialSpec.model_validate(trial.spec), ["batch_size/512"]))
    assert own.view(trial.training).records.keys() == trial.measurements
    assert own.history(trial.training) == theirs.history(trial.training)
