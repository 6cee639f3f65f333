"""A search's records, and how its samples end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ablate.core.errors import StorageError
from ablate.planning.search import Search
from ablate.storage.samples import SampleEnd, sample_end
from ablate.storage.status import TrainingView
from ablate.storage.storage import Storage
from tests.support.search_helpers import search_of


def test_records_are_plain_and_found_again(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    search = Search(search_of(samples=2), "abc", storage)
    first, second = search.ask(), search.ask()
    assert first is not None and second is not None
    assert search.ask() is None
    again = Search(search_of(samples=3), "abc", storage)
    assert again.samples == [first, second]
    third = again.ask()
    assert third is not None and third.number == 2
    assert json.loads((tmp_path / "searches" / "abc.json").read_text())["samples"][0]["values"] == first.values
    (tmp_path / "searches" / "abc.json").write_text('{"layout": 99}')
    with pytest.raises(StorageError, match="expected search layout 1, got 99"):
        Search(search_of(), "abc", storage)
    (tmp_path / "searches" / "abc.json").write_text("[")
    with pytest.raises(StorageError, match=r"searches/abc\.json: expected the records of a search"):
        Search(search_of(), "abc", storage)


def history(*values: float) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "metrics": {"validation/natural": value}} for epoch, value in enumerate(values)]


def test_how_a_sample_ended_is_read_from_its_training() -> None:
    entries = history(10, 20, 30)
    complete = sample_end(TrainingView("k", 2, True, True), entries, search_of())
    assert complete == SampleEnd("complete", (30.0,), {1: 20.0, 2: 30.0})
    assert sample_end(TrainingView("k", 2, False, True), entries, search_of()) is None
    stopped = sample_end(TrainingView("k", 2, False, True, stopped=2), entries, search_of())
    assert stopped is not None and (stopped.state, stopped.values) == ("stopped", ())
    failed = sample_end(TrainingView("k", 1, False, True, failure={"reason": "nan"}), entries, search_of())
    assert failed is not None and (failed.state, failed.reason) == ("failed", "nan")
    other = sample_end(TrainingView("k", 2, True, True), entries, search_of(objective={"metric": "validation/robust"}))
    assert other is not None and other.state == "failed" and "validation/robust" in other.reason
