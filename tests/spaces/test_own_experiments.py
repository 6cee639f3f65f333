"""The examples of search_spaces/README.md, as they stand there: each is built, and all of them are run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ablate.spaces.loading import load_space
from ablate.spaces.presets import folder, load_preset
from ablate.spaces.trials import configured_search
from tests.support.helpers import run_launch, run_module

MODULES = ("my_network", "my_attack", "my_augmentation", "my_objective", "my_analysis")
IMPORTS = [part for module in MODULES for part in ("--import", module)]


def examples() -> dict[str, str]:
    """File name -> content, of every block of the README that begins with a file's name."""
    text = (folder() / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:python|yaml)\n(# (\w+\.(?:py|yaml))\n.*?)```", text, re.DOTALL)
    return {name: content for content, name in blocks}


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A user's folder with the examples in it."""
    for name, content in examples().items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_the_readme_shows_each_kind_in_under_twenty_lines() -> None:
    found = examples()
    assert {f"{module}.py" for module in MODULES} <= found.keys()
    assert {"my_ablation.yaml", "my_factors.yaml", "my_search.yaml", "my_experiment.yaml"} <= found.keys()
    for name, content in found.items():
        assert len(content.strip().splitlines()) < 20, name


def test_the_first_file_is_a_space(user: Path) -> None:
    plan = json.loads(run_launch(user, "--space", "my_ablation.yaml", "--dry-run", "--json"))
    assert [trial["row"] for trial in plan["trials"]] == ["8", "12"]
    assert len(plan["trainings"]) == 2


def test_the_factors_are_rows_and_their_interaction_a_claim(user: Path) -> None:
    space = load_space(str(user / "my_factors.yaml")).space
    assert [row.label for row in space.rows] == [
        "FAT off, bits 32", "FAT off, bits 4", "FAT on, bits 32", "FAT on, bits 4",
    ]  # fmt: skip
    plan = json.loads(run_launch(user, "--space", "my_factors.yaml", "--dry-run", "--json", "--seeds", "0-2"))
    assert list(dict.fromkeys(trial["row"] for trial in plan["trials"])) == [row.label for row in space.rows]
    [told] = plan["claims"]
    assert told["words"].startswith("(FAT on, bits 4 − FAT off, bits 4) − (FAT on, bits 32 − FAT off, bits 32)")
    assert told["asked"] == 3 and told["smallest"] > 0


@pytest.mark.parametrize("preset", ["paper", "smoke"])
def test_the_search_is_one(user: Path, preset: str) -> None:
    asked = configured_search(load_space(str(user / "my_search.yaml")), load_preset(preset), [], 0).search
    assert len(asked.parameters) == 4 and asked.searcher == "optuna"
    assert asked.samples == (30 if preset == "paper" else 6)


@pytest.mark.slow
def test_network_attack_augmentation_analysis_and_figure_are_built_and_run(user: Path) -> None:
    arguments = ("--space", "my_experiment.yaml", *IMPORTS, "--local", "--cpus-per-trial", "1")
    text = run_launch(user, *arguments)
    assert "plain" in text and "darkened" in text and "paired" in text
    run_module("ablate.report", user, "--import", "my_analysis", "--out", "report")
    for suffix in ("png", "svg"):
        assert (user / "report" / "my_experiment" / f"figure-sizes.{suffix}").stat().st_size > 1000
    assert "The norm of each layer" in (user / "report" / "index.html").read_text(encoding="utf-8")
    table = (user / "report" / "my_experiment" / "table.csv").read_text(encoding="utf-8")
    assert "pgd5" in table.splitlines()[0].lower() and "darkened" in table


def test_changed_code_is_another_experiment(user: Path) -> None:
    arguments = ("--space", "my_experiment.yaml", *IMPORTS, "--dry-run", "--json")
    before = json.loads(run_launch(user, *arguments))
    attack = user / "my_attack.py"
    attack.write_text(attack.read_text().replace("steps=5", "steps=6"))
    other_attack = json.loads(run_launch(user, *arguments))
    assert before["trainings"].keys() == other_attack["trainings"].keys()
    column = "accuracy/pgd5"
    assert [t["measurements"][column] for t in before["trials"]] != [
        t["measurements"][column] for t in other_attack["trials"]
    ]
    darken = user / "my_augmentation.py"
    darken.write_text(darken.read_text().replace("0.5 + 0.5", "0.4 + 0.6"))
    other = json.loads(run_launch(user, *arguments))
    assert len(before["trainings"].keys() & other["trainings"].keys()) == 1  # the row without it
    objective = user / "my_objective.py"
    objective.write_text(objective.read_text().replace("square()", "abs()"))
    paired = json.loads(run_launch(user, *arguments))
    assert len(other["trainings"].keys() & paired["trainings"].keys()) == 2  # the rows without it


def test_without_the_module_the_name_is_unknown(user: Path) -> None:
    text = run_launch(user, "--space", "my_experiment.yaml", *IMPORTS[2:], "--dry-run", expect=2)
    assert "my_experiment.yaml" in text and "expected model.arch to be a registered name, got 'plain_cnn'" in text
