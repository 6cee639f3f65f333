"""What a launch is asked for is read once: spaces, presets, and the plan that they make."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablate.core.errors import SpecError
from ablate.launch import api, watch
from ablate.launch.options import Options
from ablate.launch.request import Request, submission_of
from ablate.launch.session import launch
from ablate.planning import plan as planning
from ablate.planning.plan_file import plan_file_of
from ablate.spaces.loading import table_names
from ablate.spaces.presets import preset_names
from ablate.storage import plans
from ablate.storage.storage import Storage
from tests.support.helpers import options_of, write_space
from tests.support.search_helpers import write_search

Read = Counter[str]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """How often each YAML file was read, by its name."""
    counted: Read = Counter()
    original = Path.read_text

    def reading(path: Path, *given: Any, **named: Any) -> str:
        if path.suffix == ".yaml":
            counted[path.name] += 1
        return original(path, *given, **named)

    monkeypatch.setattr(Path, "read_text", reading)
    return counted


def quietly(asked: Options) -> int:
    return launch(Request.read(asked), Console(file=io.StringIO(), width=150), io.StringIO())


def watched(asked: Options) -> int:
    request = Request.read(asked)
    plans.save(plan_file_of(request.plan(), {}), Storage(asked.storage))
    return watch.watch(Storage(asked.storage), Console(file=io.StringIO()), sleep=lambda seconds: None)


@pytest.mark.parametrize(
    ("start", "changes", "code"),
    [
        (quietly, {"dry_run": True}, 0),
        (quietly, {"dry_run": True, "as_json": True, "preset": "smoke"}, 0),
        (quietly, {"as_json": True, "rows": ["large"], "sets": ["training.epochs=1"]}, 0),
        (watched, {}, 1),
    ],
)
def test_a_table_and_its_preset_are_read_once(
    tmp_path: Path, read: Read, start: Callable[[Options], int], changes: dict[str, Any], code: int
) -> None:
    path = str(write_space(tmp_path))
    assert start(options_of(tmp_path, space=[path, path], **changes)) == code
    assert read == {"tiny.yaml": 1, f"{changes.get('preset', 'paper')}.yaml": 1}


@pytest.mark.parametrize("changes", [{"dry_run": True}, {"as_json": True}])
def test_a_search_and_the_presets_it_is_checked_under_are_read_once(
    tmp_path: Path, read: Read, changes: dict[str, Any]
) -> None:
    path = write_search(tmp_path, base={"training.epochs": 1}, samples=1, scheduler="fifo")
    assert quietly(options_of(tmp_path, space=[str(path)], **changes)) == 0
    assert read == {"tiny_search.yaml": 1, **{f"{name}.yaml": 1 for name in preset_names()}}


def test_all_tables_are_read_once_and_so_is_what_a_job_carries(tmp_path: Path, read: Read) -> None:
    request = Request.read(options_of(tmp_path, space=["all", "batch_size"], cluster="http://head:8265", local=False))
    submission_of(request, request.plan().id)
    assert set(read.values()) == {1}
    assert [space.name for space in request.spaces] == table_names()


def test_a_notebook_goes_on_with_the_file_it_loaded(tmp_path: Path, read: Read) -> None:
    path = write_space(tmp_path)
    space = api.load_space(path)
    plan = space.plan(storage=tmp_path / "storage", sets={"training.epochs": 1}, rows=["large"])
    path.write_text("changed meanwhile")
    assert plan.run(local=True, cpus_per_trial=1, tracking=False, quiet=True) == 0
    assert list(plan.results()["state"]) == ["finished"]
    assert read == {"tiny.yaml": 1, "paper.yaml": 1}


@pytest.mark.parametrize("searcher", ["random", "grid", "optuna"])
def test_a_dry_run_of_a_search_plans_each_sample_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searcher: str
) -> None:
    planned: list[str] = []
    original = planning.make_plan

    def planning_of(spaces: Any, trials: Any, **named: Any) -> planning.Plan:
        planned.extend(trial.label for trial in trials)
        return original(spaces, trials, **named)

    monkeypatch.setattr(planning, "make_plan", planning_of)
    parameters = {"model.activation": {"choice": ["relu", "hardtanh"]}}
    path = write_search(tmp_path, parameters=parameters, searcher=searcher, samples=None if searcher == "grid" else 2)
    assert quietly(options_of(tmp_path, space=[str(path)], dry_run=True)) == 0
    foreseen = [] if searcher == "optuna" else ["sample 0", "sample 1"]
    assert planned == ["sample 0", *foreseen]  # the first is the space's own settings, without values
    assert not (tmp_path / "storage" / "searches").exists()


def test_another_preset_is_read_only_where_it_is_proposed(tmp_path: Path, read: Read) -> None:
    request = Request.read(options_of(tmp_path, space=[str(write_space(tmp_path))]))
    assert request.under("smoke").preset.name == request.under("smoke").options.preset == "smoke"
    assert read == {"tiny.yaml": 1, "paper.yaml": 1, "smoke.yaml": 1}
    with pytest.raises(SpecError, match="--preset: expected a preset's name, got 'smoek'; did you mean 'smoke'"):
        request.under("smoek")
