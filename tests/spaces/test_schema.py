"""The JSON schema of space files: current, true to the loader, and complete in its dotted paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ablate import spaces
from ablate.core.errors import SpecError
from ablate.spaces import schema
from ablate.spaces.settings import setting_paths
from ablate.spaces.yamlfile import YamlFile

SHIPPED = Path(spaces.folder())


@pytest.fixture(scope="module")
def validator() -> Any:
    made = schema.schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


@pytest.fixture(scope="module")
def presets() -> Any:
    made = schema.preset_schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


@pytest.mark.parametrize("name", schema.FILES)
def test_the_files_are_current(name: str) -> None:
    current = schema.text(schema.FILES[name]())
    assert (SHIPPED / name).read_text(encoding="utf-8") == current, "run: python -m ablate.spaces.schema --write"


@pytest.mark.parametrize("name", spaces.preset_names())
def test_every_shipped_preset_fits_and_names_its_schema(name: str, presets: Any) -> None:
    path = SHIPPED / "presets" / f"{name}.yaml"
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=./schema.json\n")
    assert [error.message for error in presets.iter_errors(YamlFile(path).data)] == []


def test_mistakes_in_a_preset_show_in_the_editor_as_the_loader_refuses_them(
    presets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "presets").mkdir()
    monkeypatch.setattr("ablate.spaces.presets.folder", lambda: tmp_path)
    good = {
        "set": {"training": {"attack.steps": 3}, "data.name": "digits"},
        "decides_claims": False,
        "section": "smoke",
    }
    for change in ({}, {"section": None}, {"description": "one night"}, {"set": {}}):
        (tmp_path / "presets" / "own.yaml").write_text(json.dumps({**good, **change}))
        assert spaces.load_preset("own") and presets.is_valid({**good, **change}), change
    for change in ({"decides_claims": "no"}, {"section": "smoek"}, {"sets": {}}, {"set": 3}, {"description": 3}):
        (tmp_path / "presets" / "own.yaml").write_text(json.dumps({**good, **change}))
        assert not presets.is_valid({**good, **change}), change
        with pytest.raises(SpecError, match=r"presets/own.yaml:1: "):
            spaces.load_preset("own")
    for setting in ({"training.epoch": 3}, {"training.epochs": "many"}, {"seed": 3}):
        assert not presets.is_valid({**good, "set": setting}), setting


@pytest.mark.parametrize("name", spaces.space_names())
def test_every_shipped_space_fits_and_names_the_schema(name: str, validator: Any) -> None:
    path = SHIPPED / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=./schema.json\n")
    problems = [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(YamlFile(path).data)]
    assert problems == []


def test_every_setting_path_completes_wherever_settings_stand() -> None:
    made = schema.schema()
    settings = made["$defs"]["Settings"]
    assert set(settings["properties"]) == set(setting_paths()) - {"seed"}
    leaves = {path for path in setting_paths() if not any(other.startswith(f"{path}.") for other in setting_paths())}
    undescribed = [path for path in leaves - {"seed"} if "description" not in settings["properties"][path]]
    assert undescribed == ["training.momentum"] or undescribed == []
    for owner, field in (("Row", "set"), ("RowChange", "set"), ("PresetPart", "set")):
        assert made["$defs"][owner]["properties"][field]["$ref"] == "#/$defs/Settings"
    assert made["properties"]["base"]["$ref"] == "#/$defs/Settings"


@pytest.mark.parametrize(
    "change",
    [
        {"base": {"training.epoch": 3}},
        {"base": {"training": {"attack": {"step": 3}}}},
        {"base": {"training.epochs": "many"}},
        {"base": {"training": {"attack.steps": 0}}},
        {"rows": [{"label": "a", "set": {"model.activation": "reluu"}}]},
        {"rows": [{"label": "a", "sett": {}}]},
        {"titel": "x"},
        {"seed": 3},
        {"base": {"seed": 3}},
    ],
)
def test_mistakes_show_in_the_editor(change: dict[str, Any], validator: Any) -> None:
    good = {"title": "A", "rows": [{"label": "a"}]}
    assert validator.is_valid(good)
    assert not validator.is_valid({**good, **change})


def test_groups_and_paths_may_be_mixed(validator: Any) -> None:
    base = {"training": {"attack.steps": 3, "attack": {"eps_255": 4}}, "model.quantization": {"bits": 4}}
    assert validator.is_valid({"title": "A", "rows": [{"label": "a"}], "base": base})


def test_printing_and_writing_are_one_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(schema, "folder", lambda: tmp_path)
    (tmp_path / "presets").mkdir()
    assert schema.main(["--write"]) == 0
    capsys.readouterr()
    for arguments, name in (([], "schema.json"), (["--presets"], "presets/schema.json")):
        assert schema.main(arguments) == 0
        printed = capsys.readouterr().out
        assert (tmp_path / name).read_text(encoding="utf-8") == printed
    assert json.loads(printed)["$schema"].startswith("https://json-schema.org")
    assert schema.main(["--wirte"]) == 2


SEARCH = {
    "parameters": {"training.learning_rate": {"loguniform": [0.01, 1]}},
    "objective": {"metric": "validation/robust"},
    "samples": 3,
}


def test_searches_complete_too(validator: Any) -> None:
    good = {"title": "A", "search": SEARCH}
    assert validator.is_valid(good)
    for change in (
        {"scheduler": "asha"},
        {"scheduler": {"name": "asha", "grace_epochs": 2}},
        {"objective": [{"metric": "validation/natural"}, {"metric": "validation/robust", "mode": "max"}]},
    ):
        assert validator.is_valid({"title": "A", "search": {**SEARCH, **change}, "smoke": {"search": change}})
    for change in (
        {"scheduler": "ahsa"},
        {"objective": {"metric": "accuracy/pgd20"}},
        {"parameters": {"training.learning_rte": {"uniform": [0, 1]}}},
        {"parameters": {"training.momentum": {"unifrm": [0, 1]}}},
        {"parameters": {"measurement.eps_255": {"uniform": [0, 1]}}},
        {"sample": 3},
    ):
        assert not validator.is_valid({"title": "A", "search": {**SEARCH, **change}}), change
