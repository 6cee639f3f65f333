"""What each sampler does in its own way; what they share is in test_samplers_contract.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ablate.core.errors import UserError
from ablate.planning.samplers import RandomSampler, StudySampler
from ablate.planning.search import Search
from ablate.spaces.search import SearchSpec
from ablate.spaces.trials import Sample
from ablate.storage.samples import SampleEnd
from ablate.storage.storage import Storage
from tests.support.search_helpers import SEARCH, search_of


def test_random_samples_are_functions_of_seed_and_number() -> None:
    sampler = RandomSampler(search_of())
    first = [sampler.values(number) for number in range(20)]
    assert first == [RandomSampler(search_of()).values(number) for number in range(20)]
    assert len({repr(values) for values in first}) == 20
    assert RandomSampler(search_of(seed=1)).values(0) != first[0]
    more = {**SEARCH["parameters"], "training.momentum": {"uniform": [0.1, 0.9]}}
    wider = RandomSampler(search_of(parameters=more)).values(3)
    assert wider is not None and first[3] is not None
    assert {path: wider[path] for path in SEARCH["parameters"]} == first[3]


def suggestions(sampler: StudySampler, count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        values = sampler.values(number)
        assert values is not None
        yield values
        sampler.tell(number, SampleEnd("complete", (50.0 - 30 * abs(values["training.learning_rate"] - 0.1),)))


def test_the_study_learns_and_is_reconciled_with_the_records(tmp_path: Path) -> None:
    import optuna

    storage = Storage(str(tmp_path))
    search = search_of(searcher="optuna", samples=12)
    values = list(suggestions(StudySampler(search, "abc", storage, []), 8))
    database = f"sqlite:///{tmp_path}/searches/abc.db"
    study = optuna.load_study(study_name="abc", storage=database)
    assert len(study.trials) == 8 and study.best_value is not None
    # Killed between a suggestion and its record: the records are right.
    records = [Sample(number, chosen) for number, chosen in enumerate(values[:7])]
    sampler = StudySampler(search, "abc", storage, records)
    assert sampler.values(7) is not None
    study = optuna.load_study(study_name="abc", storage=database)
    assert [trial.state.name for trial in study.trials].count("COMPLETE") >= 7
    assert sum(trial.state.name == "RUNNING" for trial in study.trials) == 1
    # A lost study is made again from the records.
    (tmp_path / "searches" / "abc.db").unlink()
    again = StudySampler(search, "abc", storage, records)
    for sample in records:
        assert again.values(sample.number) == sample.values
        again.tell(sample.number, SampleEnd("complete", (40.0,)))
    assert again.values(7) is not None
    study = optuna.load_study(study_name="abc", storage=database)
    assert [trial.params for trial in study.trials][:7] == [dict(sample.values) for sample in records]


def test_tpe_and_nsga_differ_from_chance_and_seeds_matter(tmp_path: Path) -> None:
    search = search_of(searcher="optuna", samples=12)

    def of(name: str, search: SearchSpec) -> list[dict[str, Any]]:
        return list(suggestions(StudySampler(search, name, Storage(str(tmp_path)), []), 9))

    first = of("a", search)
    assert first == of("b", search)
    assert first != of("c", search_of(searcher="optuna", samples=12, seed=1))
    two = search_of(
        searcher="optuna",
        objective=[{"metric": "validation/natural"}, {"metric": "validation/robust", "mode": "max"}],
        scheduler="fifo",
    )
    sampler = StudySampler(two, "d", Storage(str(tmp_path)), [])
    for number in range(8):
        values = sampler.values(number)
        assert values is not None
        sampler.tell(number, SampleEnd("complete", (1.0 * number, -1.0 * number)))
    assert sampler.values(8) is not None
    stopped = StudySampler(search, "e", Storage(str(tmp_path)), [])
    stopped.values(0)
    stopped.tell(0, SampleEnd("stopped", (), {1: 20.0}))
    stopped.tell(0, SampleEnd("complete", (99.0,), {1: 20.0}))  # told once, it stays told


def test_without_optuna_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'ablate\[search\]', or search with searcher: random"):
        Search(search_of(searcher="optuna"), "abc", Storage(str(tmp_path)))
