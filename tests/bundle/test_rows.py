"""What a stranger computes again from a bundle: images attacked with its networks, and whole rows trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ablate.bundle.rows import Here, planned
from ablate.bundle.verification import Opened
from ablate.execution.base import Listener, Outcome, Task
from ablate.learning.data import Dataset
from ablate.planning.plan import PlannedTraining
from ablate.storage.plans import TrialPart
from ablate.storage.records import Record
from tests.bundle.support import changed, contents, run
from tests.bundle.test_round_trip import edited_record
from tests.support.tasks import have_tasks_run_by


def test_images_attacked_again_are_as_stated(bundle: Path) -> None:
    code, told = run("verify", bundle, "--spot", "5")
    assert code == 0 and "attacked 5 images again, 5 as stated" in told


def test_images_that_were_turned_are_found(bundle: Path, tmp_path: Path) -> None:
    """Every verdict of the bundle is turned, and what it states of them made anew: only the networks know better."""
    folder = tmp_path / "storage"

    def turned(record: Record) -> Record:
        correct = ~record.arrays["correct"]
        return Record(record.key, {"accuracy": 100.0 * float(np.mean(correct))}, {"correct": correct}, record.meta)

    def turn(files: dict[str, bytes]) -> None:
        for path in [name for name in files if "/record-" in name]:
            edited_record(files, turned, path)

    for name, content in contents(changed(bundle, tmp_path / "turned.zip", turn)).items():
        if name.startswith("storage/"):
            target = folder / name.removeprefix("storage/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    restated = tmp_path / "restated.zip"
    assert run("make", restated, "--space", "tiny", "--storage", folder, "--checkpoints")[0] == 0
    assert run("verify", restated)[0] == 0
    code, told = run("verify", restated, "--spot", "2")
    assert code == 1 and "0 as stated" in told and "again it is" in told


def test_a_row_trained_again_has_the_same_bits(bundle: Path) -> None:
    code, told = run("verify", bundle, "--retrain", "small", "--seed", "1")
    assert code == 0 and "small, seed 1: the same bits" in told


def test_corruptions_are_measured_again_on_the_official_images_where_they_are_here(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official, given = {"fog": np.zeros((5, 1, 3, 8, 8), np.uint8)}, list[Dataset]()

    def with_corruptions(opened: Opened, part: TrialPart, here: Here) -> tuple[PlannedTraining, list[str]]:
        training, reasons = planned(opened, part, here)
        for key, each in training.measurements.items():
            training.measurements[key] = replace(each, kind="analysis", name="corruptions")
        return training, reasons

    def run_worker(task: Task, dataset: Dataset, listen: Listener) -> Outcome:
        given.append(dataset)
        return Outcome(task.key, "failed", reason="looked at alone")

    monkeypatch.setattr("ablate.bundle.replication.planned", with_corruptions)
    have_tasks_run_by(run_worker, monkeypatch)
    monkeypatch.setattr("ablate.learning.data.load_official", lambda spec, data_root: official)
    assert run("verify", bundle, "--retrain", "small")[0] == 1
    assert [dataset.corrupted for dataset in given] == [official]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--retrain", "smal"], 2, "did you mean 'small'"),
        (["--retrain", "small", "--seed", "9"], 2, "expected a finished seed of 'small', got seed 9; finished: 0, 1"),
        (["--retrain", "small", "--set", "training.epochs=7"], 1, "another training (training.epochs: 1 there, 7 here"),
        (["--retrain", "small", "--set", "measurement.eps_255=4"], 1, "measures accuracy/pgd20 in another way"),
        (["--retrain", "small", "--set", "data.name=imagefolder"], 2, "data.root"),
        (["--retrain", "small", "--set", "nonsense"], 2, "expected path=value"),
        (["--retrain", "small", "--set", "training.epochz=7"], 2, "--set training.epochz=7: training.epochz: expected"),
        (["--retrain", "small", "--set", "training.epochz=7"], 2, "did you mean 'training.epochs'"),
    ],
)
def test_what_cannot_be_the_same_says_why(bundle: Path, arguments: list[str], code: int, told: str) -> None:
    found, output = run("verify", bundle, *arguments)
    assert found == code and told in output


def test_without_networks_no_image_can_be_attacked(bundle: Path, tmp_path: Path) -> None:
    def strip(files: dict[str, bytes]) -> None:
        for name in [name for name in files if "checkpoint-" in name]:
            del files[name]
        about = json.loads(files["bundle.json"])
        files["bundle.json"] = json.dumps({**about, "checkpoints": False}).encode()

    code, told = run("verify", changed(bundle, tmp_path / "b.zip", strip), "--spot", "1")
    assert code == 2 and "--spot: expected a bundle with networks" in told
