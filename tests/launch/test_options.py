"""One list of options: the command line, its arguments, and the calls of a notebook come from it."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

import ablate
from ablate.core.errors import UserError
from ablate.launch.__main__ import app
from ablate.launch.options import OPTIONS, Option, Options
from tests.support.helpers import write_space

COMMAND = typer.main.get_command(app)

READ = {
    "seeds": st.lists(st.integers(0, 10**18 - 1), unique=True, min_size=1, max_size=5),
    "data_root": st.builds(Path, st.sampled_from(["/", "", "./", "~", "s3:", "a b/"]), st.text(max_size=10)),
    "budget_hours": st.none() | st.floats(0, exclude_min=True, allow_infinity=False),
    "max_hours": st.none() | st.floats(0, exclude_min=True, allow_infinity=False),
    "gpus_per_trial": st.sampled_from([None, "auto"]) | st.floats(0, 1) | st.integers(2, 64).map(float),
    "trials_per_process": st.sampled_from([None, "auto"]) | st.integers(1, 999),
}
"""Values of the options that are read in a way of their own."""


def values(option: Option) -> st.SearchStrategy[Any]:
    if option.parse is not None:
        return READ[option.name]
    if option.repeats:
        return st.lists(st.text(), max_size=3)
    plain = {bool: st.booleans(), int: st.integers(option.least, 10**9), str: st.text()}[option.kind]
    return plain | st.none() if option.default is None else plain


def parsed(arguments: list[str]) -> Options:
    return Options.parsed(COMMAND.make_context("ablate", list(arguments)).params)


@settings(max_examples=40)
@given(st.fixed_dictionaries({}, optional={name: values(option) for name, option in OPTIONS.items()}))
def test_the_arguments_of_options_give_the_same_options(changes: dict[str, Any]) -> None:
    options = Options(**changes)
    arguments = options.to_arguments()
    assert parsed(arguments) == options
    assert shlex.split(shlex.join(arguments)) == arguments


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_has_arguments_and_defaults_have_none(name: str) -> None:
    assert Options().to_arguments() == []
    example = {"seeds": [3, 1], "data_root": Path("s3:x"), "gpus_per_trial": 0.25, "trials_per_process": 4}
    example |= {"budget_hours": 2.5, "max_hours": 0.5}
    by_kind = {bool: not OPTIONS[name].default, int: 7, str: "-x y"}
    value = example[name] if name in example else ["a", "--b"] if OPTIONS[name].repeats else by_kind[OPTIONS[name].kind]
    arguments = Options(**{name: value}).to_arguments()
    assert arguments[0] == OPTIONS[name].flag
    assert parsed(arguments) == Options(**{name: value})


def test_lists_of_two_options_are_never_the_same_list() -> None:
    one, other = Options(), Options()
    one.sets.append("training.epochs=3")
    one.seeds.append(1)
    assert other == Options() and other.seeds == OPTIONS["seeds"].default == [0]


def test_the_help_text_says_each_option_in_their_order() -> None:
    with typer.Context(COMMAND, info_name="ablate") as context:  # type: ignore[arg-type]
        text = COMMAND.get_help(context)
    places = [text.index(f"  {option.flag}") for option in OPTIONS.values() if not option.hidden]
    assert places == sorted(places)
    assert [option.name for option in OPTIONS.values() if option.hidden] == ["version", "storage_is_shared"]


def test_calls_from_python_take_options_by_name(tmp_path: Path) -> None:
    for call, name in ((ablate.Ablation.plan, "plan"), (ablate.LaunchPlan.run, "run")):
        parameters = inspect.signature(call).parameters
        wanted = {option.name: option for option in OPTIONS.values() if option.call == name}
        assert set(parameters) - {"self", "quiet"} == wanted.keys()
        for option in wanted.values():
            default = parameters[option.name].default
            assert (list(default) if isinstance(default, tuple) else default) == option.default
            assert f"{option.name}: " in (call.__doc__ or "")
    space = ablate.load_space(write_space(tmp_path))
    plan = space.plan(storage=tmp_path / "storage", rows=["small"])
    assert set(plan.trials()["row"]) == {"small"}
    asked = {
        "plan: expected one of its arguments, got 'sed'; did you mean 'seeds'?": {"sed": [1]},
        "rows: expected a list of rows' labels, like ['64'], got 'small'": {"rows": "small"},
        "rows: expected the label of a row, got 'smal'; did you mean 'small'?": {"rows": ["smal"]},
    }
    for said, given_ in asked.items():
        with pytest.raises(UserError) as caught:
            space.plan(storage=tmp_path / "storage", **given_)
        assert str(caught.value) == said
    for said, given_ in {
        "run: expected one of its arguments, got 'locl'; did you mean 'local'?": {"locl": True},
        "local: expected True or False, got 1": {"local": 1},
        "tracking_uri: expected a text, got 3": {"tracking_uri": 3},
        "max_failures: expected a whole number from 0 up, got -1": {"max_failures": -1},
    }.items():
        with pytest.raises(UserError) as caught:
            plan.run(**given_)
        assert str(caught.value) == said
