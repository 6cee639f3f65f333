"""What every sampler promises, whether it chooses by chance, from a grid or by what it has learnt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ablate.planning.samplers import GridSampler, RandomSampler, Sampler, StudySampler
from ablate.spaces.search import SearchSpec
from ablate.spaces.trials import Sample
from ablate.storage.samples import SampleEnd
from ablate.storage.storage import Storage
from tests.support.search_helpers import search_of

PARAMETERS = {
    "training.momentum": {"choice": [0.5, 0.7, 0.9]},
    "model.activation": {"choice": ["relu", "hardtanh"]},
    "model.quantization.fat": {"choice": [True, False]},
    "model.quantization.fat_learning_rate": {"choice": [0.1, 1.0], "when": {"model.quantization.fat": True}},
}
"""3 x 2 x (2 + 1) configurations."""
START = {"training.momentum": 0.7, "model.activation": "relu", "model.quantization.fat": False}
CONFIGURATIONS = 18

Make = Callable[[SearchSpec, Sequence[Sample]], Sampler]


def study(search: SearchSpec, samples: Sequence[Sample], folder: Path) -> Sampler:
    return StudySampler(search, "abc", Storage(str(folder)), samples)


MAKERS: dict[str, Callable[[SearchSpec, Sequence[Sample], Path], Sampler]] = {
    "random": lambda search, samples, folder: RandomSampler(search),
    "grid": lambda search, samples, folder: GridSampler(search),
    "optuna": study,
}


@pytest.fixture(params=MAKERS)
def searcher(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def search(searcher: str) -> SearchSpec:
    return search_of(searcher=searcher, parameters=PARAMETERS, scheduler="fifo", samples=8, start=[START])


def ended(number: int) -> SampleEnd:
    return (
        SampleEnd("complete", (50.0 + number % 5,), {1: 40.0, 2: 50.0 + number % 5}),
        SampleEnd("stopped", (), {1: 10.0}),
        SampleEnd("failed", reason="loss became nan"),
    )[number % 3]


def asked(sampler: Sampler, search: SearchSpec, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """What a search does: those to start from come first, and each sample's end is told before the next is asked."""
    found = []
    for number in numbers:
        values = dict(search.start[number]) if number < len(search.start) else None
        chosen = sampler.values(number)
        values = values or chosen
        assert values is not None
        found.append(values)
        sampler.tell(number, ended(number))
    return found


@pytest.fixture
def make(searcher: str, tmp_path: Path) -> Make:
    return lambda search, samples=(): MAKERS[searcher](search, samples, tmp_path)


def test_each_configuration_is_one_of_the_space(search: SearchSpec, make: Make) -> None:
    for values in asked(make(search, ()), search, range(8)):
        assert json.loads(json.dumps(values)) == values
        for path, parameter in search.parameters.items():
            assert (path in values) == parameter.active(values)
            assert path not in values or values[path] in PARAMETERS[path]["choice"]
        assert values.keys() <= search.parameters.keys()


def test_asked_again_it_says_the_same_and_what_was_handed_out_is_the_askers(search: SearchSpec, make: Make) -> None:
    sampler = make(search, ())
    sampler.values(0)
    first = sampler.values(1)
    assert first is not None
    kept = dict(first)
    first.clear()
    assert sampler.values(1) == kept


def test_the_same_search_asks_for_the_same(search: SearchSpec, searcher: str, tmp_path: Path) -> None:
    once, twice = (asked(MAKERS[searcher](search, (), tmp_path / name), search, range(8)) for name in ("a", "b"))
    assert once == twice


def test_made_anew_from_the_records_it_goes_on_as_if_it_had_not_ended(
    search: SearchSpec, searcher: str, tmp_path: Path
) -> None:
    whole = asked(MAKERS[searcher](search, (), tmp_path / "whole"), search, range(8))
    first = asked(MAKERS[searcher](search, (), tmp_path / "cut"), search, range(4))
    records = [Sample(number, values) for number, values in enumerate(first)]
    assert first + asked(MAKERS[searcher](search, records, tmp_path / "cut"), search, range(4, 8)) == whole


def test_an_end_may_be_told_again_and_of_samples_never_asked_for(search: SearchSpec, make: Make) -> None:
    sampler = make(search, ())
    before = asked(sampler, search, range(3))
    for number in (0, 1, 2, 99):
        sampler.tell(number, SampleEnd("complete", (99.0,)))
    assert [sampler.values(number) for number in (1, 2)] == before[1:]
    assert sampler.values(3) is not None


def test_only_a_grid_comes_to_an_end_and_repeats_nothing(searcher: str, tmp_path: Path) -> None:
    search = search_of(
        searcher=searcher,
        parameters=PARAMETERS,
        scheduler="fifo",
        samples=None if searcher == "grid" else 40,
        start=[START],
    )
    sampler = MAKERS[searcher](search, (), tmp_path)
    found = [START, *(sampler.values(number) for number in range(1, CONFIGURATIONS + 3))]
    distinct = {json.dumps(values, sort_keys=True) for values in found if values is not None}
    if searcher == "grid":
        assert len(distinct) == CONFIGURATIONS and found[CONFIGURATIONS:] == [None] * 3
    else:
        assert None not in found
