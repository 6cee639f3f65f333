"""A training that was finished and has lost its network: trained once more, its numbers are never of two networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ablate.execution import worker
from ablate.learning import data, training
from ablate.storage.storage import Storage
from tests.support.tasks import planned, task

MORE = "measurement.attacks=[natural, fgsm, gn]"


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    from ablate.spaces.specs import DataSpec

    return data.load(DataSpec(name="digits", image_size=8), Path())


def lost(storage: Storage, key: str, how: str) -> None:
    """Its last checkpoint goes: by `--prune`, with the one before it, or alone, from which it then goes on."""
    if how == "pruned":
        storage.prune(key)
        return
    checkpoints = sorted(Path(storage.location).glob(f"{key}/attempts/*/checkpoint-*"))
    checkpoints[-1].unlink()


def measured(events: list[Any]) -> list[str]:
    return [event.text for event in events if event.kind == "measured"]


@pytest.mark.parametrize("how", ["pruned", "its last checkpoint lost"])
@pytest.mark.parametrize("other", [False, True], ids=["the same bits", "other bits"])
def test_what_is_measured_of_a_network_trained_once_more_is_never_beside_that_of_another(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch, how: str, other: bool
) -> None:
    storage = Storage(str(tmp_path / "storage"))
    first = planned(tmp_path)
    key = task(first, storage).key
    worker.run(task(first, storage), digits, lambda event: None)
    before, curves = storage.view(key), storage.history(key)
    lost(storage, key, how)
    if other:  # as another GPU, or another number of threads, rounds otherwise
        step = training.TrainingRun.step

        def rounded(run: training.TrainingRun, *given: Any) -> Any:
            loss, right = step(run, *given)
            with torch.no_grad():
                next(run.network.parameters()).mul_(1.0 + 1e-3)
            return loss, right

        monkeypatch.setattr(training.TrainingRun, "step", rounded)
    events: list[Any] = []
    second = planned(tmp_path, MORE)
    worker.run(task(second, storage), digits, events.append)
    after = storage.view(key)
    wanted = set(second.trainings[key].measurements)
    assert after.finished and after.records.keys() >= wanted
    last = sorted({path.rsplit("/", 1)[0] for path, _ in after.records.values()})
    assert (len(last) == 1) == other and (len(measured(events)) > 1) == other
    assert (storage.history(key)[-1]["metrics"]["train/loss"] == curves[-1]["metrics"]["train/loss"]) == (not other)
    assert ("other numbers came of it" in storage.log(key)[1]) == other
    if not other:
        assert before.records.items() <= after.records.items() and storage.history(key) == curves
