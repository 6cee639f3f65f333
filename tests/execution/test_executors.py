"""Packed trainings: what runs out of memory in its part of a GPU gets a whole one, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ablate.core.errors import SpecError
from ablate.execution import base, worker
from ablate.execution.base import Outcome
from ablate.execution.executors import in_two_waves
from ablate.launch.options import parse_gpus, parse_seeds
from ablate.learning import data
from ablate.spaces.specs import DataSpec
from ablate.storage.storage import Storage
from tests.support.tasks import planned, task


def waves(needs: Mapping[str, float], shares: Mapping[str, float]) -> tuple[dict[str, Outcome], list[Any], list[str]]:
    ran: list[Any] = []
    notes: list[str] = []

    def placed(trainings: Sequence[Any], given: Mapping[str, float], listen: object) -> dict[str, Outcome]:
        ran.append({training.key: given[training.key] for training in trainings})
        outcomes = {}
        for training in trainings:
            fits = given[training.key] >= needs[training.key]
            outcomes[training.key] = (
                Outcome(training.key, "finished")
                if fits
                else Outcome(training.key, "failed", "out of memory", needs_more_memory=given[training.key] < 1)
            )
        return outcomes

    trainings: Any = [SimpleNamespace(key=key) for key in needs]
    return in_two_waves(placed, trainings, shares, lambda event: None, notes.append), ran, notes


def test_only_what_ran_out_of_memory_runs_again_with_a_whole_gpu() -> None:
    outcomes, ran, notes = waves({"small": 0.1, "large": 0.6}, {"small": 0.25, "large": 0.25})
    assert ran == [{"small": 0.25, "large": 0.25}, {"large": 1.0}]
    assert {outcome.state for outcome in outcomes.values()} == {"finished"}
    assert len(notes) == 1 and "1 training" in notes[0]


def test_what_does_not_fit_a_whole_gpu_fails_with_that_reason() -> None:
    outcomes, ran, _ = waves({"huge": 2.0}, {"huge": 0.5})
    assert len(ran) == 2
    assert (outcomes["huge"].state, outcomes["huge"].reason) == ("failed", "out of memory")


def test_where_all_fits_there_is_one_wave() -> None:
    _, ran, notes = waves({"small": 0.1}, {"small": 0.25})
    assert len(ran) == 1 and not notes


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_out_of_memory_is_a_stored_failure_only_with_a_whole_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    plan, storage = planned(tmp_path), Storage(str(tmp_path / "storage"))

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(worker, "train", full)
    given = task(plan, storage)
    given = base.Task(**{**vars(given), "gpu_share": share})
    events: list[Any] = []
    digits = data.load(DataSpec(name="digits", image_size=8), tmp_path)
    outcome = worker.run(given, digits, events.append)
    assert outcome.state == "failed" and outcome.reason.startswith("out of memory: CUDA out of memory")
    assert outcome.needs_more_memory == (share < 1)
    assert [event.kind for event in events if event.kind == "failed"] == ([] if share < 1 else ["failed"])
    assert (storage.view(given.key).failure is None) == (share < 1)


@pytest.mark.parametrize(("text", "gpus"), [(None, None), ("auto", "auto"), ("0.25", 0.25), ("2", 2.0), ("0", 0.0)])
def test_gpus_per_trial_is_a_number_or_auto(text: str | None, gpus: object) -> None:
    assert parse_gpus(text) == gpus


@pytest.mark.parametrize("text", ["", "car", "-1", "nan", "1.5", "inf"])
def test_other_gpus_per_trial_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="expected auto"):
        parse_gpus(text)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", [0]), ("2,0", [2, 0]), ("0-3", [0, 1, 2, 3]), ("7, 0 - 1", [7, 0, 1]), ("5-5", [5])]
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "word"),
    [
        *((text, "whole numbers") for text in ("", "one", "-1", "1.5", "1,,2", "٣")),
        ("3-1", "smaller"),
        ("0-2,1", "distinct"),
        ("0-9999999999", "at most"),
    ],
)
def test_other_seeds_are_refused(text: str, word: str) -> None:
    with pytest.raises(SpecError, match=word):
        parse_seeds(text)
