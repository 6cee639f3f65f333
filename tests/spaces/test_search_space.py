"""Search spaces: distributions, conditions, and what is refused."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ablate.core.errors import SpecError
from ablate.planning.samplers import GridSampler
from ablate.spaces.loading import load_space, table_names
from ablate.spaces.presets import load_preset
from ablate.spaces.search import Parameter, SearchSpec
from ablate.spaces.settings import parse_overrides
from ablate.spaces.trials import Sample, configured_search
from tests.support.search_helpers import SEARCH, write_search

UNIT = st.floats(0, 1, exclude_max=True)


def parameter(**settings: Any) -> Parameter:
    return Parameter.model_validate(settings)


def values_of(each: Parameter) -> list[Any]:
    count = each.count()
    assert count is not None
    return [each.point(k) for k in range(count)]


HUGE: list[dict[str, Any]] = [
    {"randint": [64, 2_000_000_000]},
    {"randint": [-(2**51), 2**51]},
    {"quniform": [0, 1, 1e-9]},
    {"quniform": [-100, 100, 1e-9]},
]


@pytest.mark.parametrize("settings", HUGE)
def test_a_huge_range_is_never_written_out(settings: dict[str, Any]) -> None:
    tracemalloc.start()
    each = parameter(**settings)
    count = each.count()
    assert count is not None
    assert count > 10**8
    low, high = each.extremes()
    half = each.quniform[2] / 2 if each.quniform is not None else 0.5
    assert (low, high) == pytest.approx(each.bounds, rel=1e-12)
    for u in (0.0, 0.3, 0.5, math.nextafter(1, 0)):
        assert each.holds(each.at(u))
    for inside in (low, high, each.point(1), each.point(count // 3), each.point(count - 2)):
        assert each.holds(inside)
    for outside in (
        each.bounds[0] - 1,
        each.bounds[1] + 1,
        math.nan,
        math.inf,
        True,
        "64",
        None,
        each.bounds[0] + half,
    ):  # type: ignore[operator]
        assert not each.holds(outside)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_a_grid_of_a_huge_range_is_as_long_as_its_samples() -> None:
    parameters = {
        "model.quantization.bits": {"choice": [4, 8]},
        "training.batch_size": {"randint": [64, 2_000_000_000]},
    }
    content = {**SEARCH, "parameters": parameters, "searcher": "grid", "samples": 5}
    sampler = GridSampler(SearchSpec.model_validate(content))
    assert [sampler.values(number)["training.batch_size"] for number in range(5)] == [64, 65, 66, 67, 68]  # type: ignore[index]
    assert sampler.values(5) is None
    with pytest.raises(
        ValidationError, match=r"expected a grid of at most 100,000 configurations, or samples, got more"
    ):
        SearchSpec.model_validate({**content, "samples": None})


def test_a_grid_counts_configurations_and_not_what_conditions_turn_off() -> None:
    off = {"randint": [64, 2_000_000_000], "when": {"model.quantization.bits": 4}}
    content = {**SEARCH, "parameters": {"model.quantization.bits": {"choice": [8]}, "training.batch_size": off}}
    with pytest.raises(ValidationError, match="expected a value that"):
        SearchSpec.model_validate({**content, "searcher": "grid", "samples": None})
    content["parameters"]["model.quantization.bits"] = {"choice": [8, 2]}
    off["when"] = {"model.quantization.bits": 2}
    found = SearchSpec.model_validate({**content, "searcher": "grid", "samples": 1})
    assert list(itertools.islice(found.grid(), 2)) == [
        {"model.quantization.bits": 8},
        {"model.quantization.bits": 2, "training.batch_size": 64},
    ]


@pytest.mark.parametrize(
    "settings", [{"randint": [0, 10**30]}, {"quniform": [0, 1, 1e-300]}, {"quniform": [0, 1e308, 1]}]
)
def test_a_range_that_numbers_cannot_tell_apart_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"expected (randint within|a step of at least)"):
        parameter(**settings)


@given(
    low=st.floats(-10, 10),
    steps=st.integers(1, 50),
    step=st.sampled_from([0.1, 0.25, 1, 1 / 3]),
    value=st.floats(-20, 40),
)
def test_what_it_holds_is_what_it_can_be(low: float, steps: int, step: float, value: float) -> None:
    each = parameter(quniform=[low, low + steps * step + step / 100, step])
    points = values_of(each)
    assert all(each.holds(point) for point in points)
    assert each.holds(value) == (value in points)


@given(u=UNIT)
def test_values_lie_in_their_bounds(u: float) -> None:
    assert 0.001 <= parameter(loguniform=[0.001, 10]).at(u) <= 10  # type: ignore[operator]
    assert -1 <= parameter(uniform=[-1, 2]).at(u) <= 2  # type: ignore[operator]
    assert parameter(quniform=[0.1, 0.5, 0.1]).at(u) in [0.1, 0.2, 0.3, 0.4, 0.5]
    assert parameter(randint=[2, 4]).at(u) in [2, 3, 4]
    assert parameter(choice=["a", None, True]).at(u) in ["a", None, True]


def test_distributions_are_what_their_names_say() -> None:
    grid = [(k + 0.5) / 1000 for k in range(1000)]
    logs = [math.log10(parameter(loguniform=[0.001, 10]).at(u)) for u in grid]  # type: ignore[arg-type]
    assert abs(sum(logs) / len(logs) - (-1)) < 0.01  # the middle of -3 .. 1
    plain = [parameter(uniform=[2, 4]).at(u) for u in grid]
    assert abs(sum(plain) / len(plain) - 3) < 0.01  # type: ignore[arg-type]
    counts = [[parameter(randint=[2, 4]).at(u) for u in grid].count(k) for k in (2, 3, 4)]
    assert max(counts) - min(counts) <= 1
    assert values_of(parameter(quniform=[4, 12, 1])) == [4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert values_of(parameter(quniform=[0, 1, 0.3])) == [0, 0.3, 0.6, 0.9]
    assert parameter(uniform=[0, 1]).count() is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "exactly one of loguniform"),
        ({"uniform": [0, 1], "choice": [1]}, "got uniform and choice"),
        ({"uniform": [1, 1]}, "low below high"),
        ({"loguniform": [0, 1]}, "above 0"),
        ({"quniform": [0, 1, 2]}, "step"),
        ({"quniform": [0, 1, 0]}, "step"),
        ({"choice": ["a", "a"]}, "each choice once"),
        ({"choice": []}, "at least 1 item"),
        ({"randint": [0.5, 3]}, "int"),
    ],
)
def test_bad_distributions_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        parameter(**settings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameters": {"training.learning_rat": {"uniform": [0, 1]}}}, "did you mean 'training.learning_rate'"),
        ({"parameters": {"seed": {"randint": [0, 9]}}}, "--seeds"),
        ({"parameters": {"measurement.eps_255": {"uniform": [0, 9]}}}, "test split"),
        ({"parameters": {"data.validation": {"uniform": [0.1, 0.2]}}}, "judged on"),
        ({"parameters": {"training.attack": {"choice": [1]}}}, "known setting"),
        ({"objective": {"metric": "accuracy/pgd20"}}, "objective"),
        ({"objective": [{"metric": "validation/natural"}] * 2}, "two different metrics"),
        (
            {"objective": [{"metric": "validation/natural"}, {"metric": "validation/robust"}]},
            "scheduler fifo with two objectives, got asha",
        ),
        ({"samples": None}, "samples or time_budget_minutes, got neither"),
        ({"searcher": "grid"}, "training.learning_rate: expected choice, randint or quniform in a grid"),
        ({"scheduler": "hyperband"}, "scheduler"),
        ({"start": [{"model.activation": "relu"}]}, "expected a value of training.learning_rate"),
        ({"start": [{"model.activation": "relu", "training.learning_rate": 3}]}, "can take, got 3"),
        ({"start": [{"model.activatio": "relu", "training.learning_rate": 0.1}]}, "did you mean 'model.activation'"),
        ({"sample": 3}, "did you mean 'samples'"),
    ],
)
def test_bad_searches_are_refused_with_their_place(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = write_search(tmp_path, **changes)
    with pytest.raises(SpecError) as caught:
        load_space(str(path))
    assert words in str(caught.value)
    assert f"{path}:" in str(caught.value)


def test_the_weakest_attack_cannot_win() -> None:
    changes = {"parameters": {"training.attack.eps_255": {"uniform": [0, 8]}}}
    robust = {**SEARCH, **changes, "objective": {"metric": "validation/robust"}}
    assert SearchSpec.model_validate(robust)
    with pytest.raises(ValidationError, match="the weakest would win"):
        SearchSpec.model_validate({**robust, "objective": {"metric": "validation/attack"}})


def test_a_search_needs_a_validation_split_and_valid_extremes(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"data\.validation: expected a share above 0 for a search"):
        load_space(str(write_search(tmp_path, base={"data.validation": 0})))
    parameters = {"training.momentum": {"uniform": [0, 1]}}  # below 1 is demanded
    with pytest.raises(SpecError, match=r"training\.momentum"):
        load_space(str(write_search(tmp_path, parameters=parameters)))


def test_either_rows_or_search(tmp_path: Path) -> None:
    path = write_search(tmp_path)
    path.write_text(path.read_text() + "rows: [{label: a}]\n")
    with pytest.raises(SpecError, match="either rows or search, got both"):
        load_space(str(path))
    path.write_text("title: x\n")
    with pytest.raises(SpecError, match="either rows or search, got neither"):
        load_space(str(path))


CONDITIONAL = {
    "model.quantization.fat": {"choice": [True, False]},
    "model.quantization.fat_learning_rate": {
        "loguniform": [0.001, 0.1],
        "when": {"model.quantization.fat": True},
    },
    "model.quantization.bits": {"choice": [4, 32]},
}


def test_conditions_turn_parameters_off_and_refuse_circles(tmp_path: Path) -> None:
    search = load_space(str(write_search(tmp_path, parameters=CONDITIONAL))).space.search
    assert search is not None
    rate = search.parameters["model.quantization.fat_learning_rate"]
    assert rate.active({"model.quantization.fat": True})
    assert not rate.active({"model.quantization.fat": False})
    assert not rate.active({"model.quantization.fat": 1})  # 1 is not true
    assert not rate.active({})
    circle = {
        "training.momentum": {"choice": [0.1], "when": {"training.weight_decay": 0.1}},
        "training.weight_decay": {"choice": [0.1], "when": {"training.momentum": 0.1}},
    }
    with pytest.raises(SpecError, match="without a circle"):
        load_space(str(write_search(tmp_path, parameters=circle)))
    unknown = {"training.momentum": {"choice": [0.1], "when": {"training.weight_decy": 1}}, **CONDITIONAL}
    with pytest.raises(SpecError, match="another parameter of this search"):
        load_space(str(write_search(tmp_path, parameters=unknown)))
    other = {**CONDITIONAL, "training.momentum": {"choice": [0.1], "when": {"model.quantization.bits": 5}}}
    with pytest.raises(SpecError, match=r"a value that model\.quantization\.bits can take, got 5"):
        load_space(str(write_search(tmp_path, parameters=other)))


def test_a_grid_has_each_configuration_once() -> None:
    parameters = {
        **CONDITIONAL,
        "model.quantization.fat_learning_rate": {"choice": [0.1, 0.2], "when": {"model.quantization.fat": True}},
    }
    search = SearchSpec.model_validate({**SEARCH, "parameters": parameters, "searcher": "grid", "samples": None})
    points = list(search.grid())
    assert len(points) == 2 * 2 + 2  # with a mask two rates, without none; each at two widths
    assert len({repr(sorted(point.items())) for point in points}) == len(points)


def test_what_is_set_is_no_longer_searched(tmp_path: Path) -> None:
    loaded = load_space(str(write_search(tmp_path, parameters=CONDITIONAL)))

    def left(*sets: str) -> dict[str, Parameter]:
        return configured_search(loaded, load_preset("paper"), parse_overrides(sets), 0).search.parameters

    assert left().keys() == CONDITIONAL.keys()
    assert left("model.quantization.fat=false").keys() == {"model.quantization.bits"}
    on = left("model.quantization.fat=true")
    assert on.keys() == {"model.quantization.fat_learning_rate", "model.quantization.bits"}
    assert on["model.quantization.fat_learning_rate"].when == {}
    with pytest.raises(SpecError, match="something left to search"):
        left("model.quantization.fat=false", "model.quantization.bits=4")


def test_the_command_line_changes_the_search_itself(tmp_path: Path) -> None:
    loaded = load_space(str(write_search(tmp_path)))

    def asked(*sets: str) -> SearchSpec:
        return configured_search(loaded, load_preset("paper"), parse_overrides(sets), 0).search

    assert asked("search.samples=3").samples == 3
    assert asked("search.scheduler.name=fifo").scheduler.name == "fifo"
    assert asked("search.searcher=optuna", "search.seed=4").seed == 4
    for bad in ("search.sample=3", "search.samples=none", "search.parameters.x=1", "search=1"):
        with pytest.raises(SpecError, match="--set search"):
            asked(bad)


def test_values_make_the_trial_and_later_settings_win(tmp_path: Path) -> None:
    loaded = load_space(str(write_search(tmp_path)))
    asked = configured_search(loaded, load_preset("paper"), parse_overrides(["training.epochs=7"]), 5)
    values = {"training.learning_rate": 0.25, "model.activation": "hardtanh"}
    trial = asked.trial(Sample(3, values))
    assert trial.spec.training.learning_rate == 0.25
    assert trial.spec.model.activation == "hardtanh"
    assert (trial.spec.training.epochs, trial.seed, trial.label) == (7, 5, "sample 3")
    assert trial.note == "learning_rate 0.25, activation hardtanh"
    assert str(loaded.file.path) in trial.where("training.learning_rate")


@pytest.mark.parametrize("name", ["robust_recipe", "fat_quantizer"])
@pytest.mark.parametrize("preset", ["paper", "smoke"])
def test_shipped_searches_load_under_both_presets(name: str, preset: str) -> None:
    asked = configured_search(load_space(name), load_preset(preset), [], 0)
    spec = asked.spec({})
    assert spec.data.validation > 0
    assert (spec.data.name, spec.training.epochs) == (("digits", 12) if preset == "smoke" else ("cifar10", 120))
    assert name not in table_names()
    if name == "robust_recipe":
        assert asked.search.objective[0].metric == "validation/robust"
        default = asked.spec(asked.search.start[0])
        assert default.training.learning_rate == 0.1 and default.training.attack.eps_255 == 8
    else:
        assert len(asked.search.objective) == 2 and asked.search.scheduler.name == "fifo"
