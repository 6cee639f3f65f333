"""Packed trainings: what runs out of memory in its part of a GPU gets a whole one, once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ablate.core.errors import SpecError
from ablate.execution import base, local, worker
from ablate.launch.options import parse_gpus
from ablate.learning import data
from ablate.spaces.seeds import parse_seeds
from ablate.spaces.specs import DataSpec
from ablate.storage.storage import Storage
from tests.support.tasks import planned, task


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_out_of_memory_is_a_stored_failure_only_with_a_whole_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    plan, storage = planned(tmp_path), Storage(str(tmp_path / "storage"))

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(worker, "train_in_turns", full)
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


@pytest.mark.parametrize(("gpus", "device"), [(0.0, "cpu"), (1.0, "cuda"), (None, "cuda")])
def test_a_training_that_asks_for_no_gpu_gets_none_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: float | None, device: str
) -> None:
    storage = Storage(str(tmp_path / "storage"))
    jobs: list[Any] = [base.Job((task(planned(tmp_path), storage),)), None]
    ran: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(local, "run_watched", lambda tasks, *_: ran.extend(each.device for each in tasks))
    executor = local.LocalExecutor(base.Resources(1, cpus=1, gpus=gpus), {}, storage.files, lambda note: None)
    executor.run(SimpleNamespace(next=lambda together: jobs.pop(0)), lambda event: None)  # type: ignore[arg-type]
    assert ran == [device]


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
