"""Keys of an earlier version: plan ids and the keys of every shipped space, and what they hang on.

When one of these fails, what users have stored is orphaned: nothing of it is found again. `make.py` made the keys.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ablate.attacks import attack_names, build_attack
from ablate.launch.__main__ import app
from ablate.spaces import presets
from ablate.spaces.specs import MeasurementSpec

HERE = Path(__file__).resolve().parent
KEYS: dict[str, Any] = json.loads((HERE / "keys.json").read_text())
LATER: dict[str, Any] = json.loads((HERE / "later.json").read_text())
"""Of commit e669528: every attack that it had, and what the spaces asked for that came after `keys.json`."""
CASES = [(preset, space) for preset in KEYS if preset != "attacks" for space in KEYS[preset]]


def planned(space: str, preset: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a dry run says of a space: the plan's id, and each row's keys."""
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, ["--space", space, "--preset", preset, "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    rows = {trial["row"]: {"training": trial["training"], **trial["measurements"]} for trial in plan["trials"]}
    return {"id": plan["id"], "rows": rows}


@pytest.mark.parametrize(("preset", "space"), CASES)
def test_an_earlier_space_makes_the_same_plan_with_the_same_keys(
    preset: str, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spaces = shutil.copytree(HERE / "spaces", tmp_path / "spaces")
    with (spaces / "presets" / "smoke.yaml").open("a") as file:
        file.write("section: smoke\n")  # which presets did not say then: their names did
    monkeypatch.setattr(presets, "folder", lambda: spaces)
    assert planned(str(spaces / f"{space}.yaml"), preset, tmp_path, monkeypatch) == KEYS[preset][space]


@pytest.mark.parametrize(("preset", "space"), CASES)
def test_the_shipped_space_still_asks_for_everything_it_asked_for(
    preset: str, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have more rows and columns than then, but what was trained and measured for it is used on."""
    now = planned(space, preset, tmp_path, monkeypatch)["rows"]
    for row, keys in KEYS[preset][space]["rows"].items():
        assert keys.items() <= now[row].items(), row


@pytest.mark.parametrize("space", LATER["paper"])
def test_a_later_space_still_asks_for_everything_it_asked_for(
    space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = planned(space, "paper", tmp_path, monkeypatch)["rows"]
    for row, keys in LATER["paper"][space]["rows"].items():
        assert keys.items() <= now[row].items(), row


@pytest.mark.parametrize("name", KEYS["attacks"])
def test_an_attack_tells_its_settings_as_it_did(name: str) -> None:
    specs = (MeasurementSpec(), MeasurementSpec(eps_255=4, step_255=1))
    assert [repr(build_attack(name, spec)) for spec in specs] == KEYS["attacks"][name]


@pytest.mark.parametrize("name", LATER["attacks"])
def test_a_later_attack_tells_its_settings_as_it_did(name: str) -> None:
    """Its class may be called otherwise since then: keys are made of what it says."""
    more = {"attacks": ("natural", "pgd20", "square", "aa", "worst")} if name == "worst" else {}
    specs = (MeasurementSpec(**more), MeasurementSpec(eps_255=4, step_255=1, **more))
    assert [repr(build_attack(name, spec)) for spec in specs] == LATER["attacks"][name]
    assert set(attack_names()) >= LATER["attacks"].keys()
