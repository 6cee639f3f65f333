"""python -m ablate.spaces.schema: the JSON schemas of space and preset files, by which an editor completes them.

python -m ablate.spaces.schema              print that of spaces
python -m ablate.spaces.schema --presets    print that of presets
python -m ablate.spaces.schema --write      bring schema.json and presets/schema.json in search_spaces up to date
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ablate.spaces.presets import folder
from ablate.spaces.search import searchable
from ablate.spaces.space import Preset, Space
from ablate.spaces.specs import TrialSpec
from ablate.spaces.yamlfile import models_in

_SETTINGS = (("Space", "base"), ("Preset", "set"), ("Row", "set"), ("RowChange", "set"), ("PresetPart", "set"))
"""Models and fields that hold settings by dotted path."""


def schema() -> dict[str, Any]:
    """The schema of a space file.

    Returns:
        JSON schema (draft 2020-12); wherever settings stand, every dotted path with its type, bounds and meaning.
    """
    return _schema(Space, "A space of ablate", "One ablation or search; see search_spaces/README.md.")


def preset_schema() -> dict[str, Any]:
    """The schema of a preset file; as of `schema`."""
    return _schema(Preset, "A preset of ablate", "Settings between a space and --set; see search_spaces/README.md.")


FILES: dict[str, Callable[[], dict[str, Any]]] = {"schema.json": schema, "presets/schema.json": preset_schema}
"""Place among the shipped spaces -> what stands there."""


def _schema(model: type[BaseModel], title: str, description: str) -> dict[str, Any]:
    content = model.model_json_schema(by_alias=True)
    definitions = content.setdefault("$defs", {})
    trial = TrialSpec.model_json_schema()
    for name, definition in trial.pop("$defs", {}).items():
        definitions.setdefault(name, definition)
    definitions["Settings"] = _settings(TrialSpec, definitions)
    for name, field in _SETTINGS:
        owner = content if name == model.__name__ else definitions.get(name)
        if owner is None:
            continue
        described = owner["properties"][field]
        owner["properties"][field] = {"$ref": "#/$defs/Settings", "default": described.get("default", {})}
    if "SearchSpec" in definitions:
        _search(definitions)
    if model is Space:
        _shorthands(content["properties"], definitions)
    # Nothing reaches the models of a trial but settings, whose groups are written out.
    while unused := [name for name in definitions if not _used(name, content)]:
        for name in unused:
            del definitions[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **content,
        "title": title,
        "description": description,
    }


def _shorthands(properties: dict[str, Any], definitions: dict[str, Any]) -> None:
    """The settings of factors, and the values of what grid and zip name by dotted path."""
    properties["factors"]["additionalProperties"]["additionalProperties"] = {"$ref": "#/$defs/Settings"}
    values = {
        path: {"type": "array", "items": {"$ref": f"#/$defs/Settings/properties/{path}"}, "minItems": 1}
        for path, leaf in definitions["Settings"]["properties"].items()
        if "$ref" not in leaf
    }
    definitions["Values"] = {"type": "object", "properties": values, "additionalProperties": False}
    for shorthand in ("grid", "zip"):
        described = {key: properties[shorthand][key] for key in ("default", "description")}
        properties[shorthand] = {"$ref": "#/$defs/Values", **described}


def _search(definitions: dict[str, Any]) -> None:
    """What the models of a search take besides what pydantic tells of them: shorthands, and dotted paths."""
    properties = definitions["SearchSpec"]["properties"]
    one = {"$ref": "#/$defs/Objective"}
    properties["objective"] = {
        "anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": 2}],
        "description": properties["objective"]["description"],
    }
    names = definitions["Scheduler"]["properties"]["name"]
    properties["scheduler"] = {"anyOf": [{"enum": names["enum"]}, {"$ref": "#/$defs/Scheduler"}]}
    settings = definitions["Settings"]["properties"]
    properties["parameters"] = {
        "type": "object",
        "properties": {path: {"$ref": "#/$defs/Parameter", **_described(settings[path])} for path in searchable()},
        "additionalProperties": False,
        "minProperties": 1,
    }
    definitions["PresetPart"]["properties"]["search"] = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "default": {},
    }


def _described(leaf: dict[str, Any]) -> dict[str, Any]:
    return {"description": leaf["description"]} if "description" in leaf else {}


def text(made: dict[str, Any]) -> str:
    """A schema as a file's text."""
    return json.dumps(made, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _settings(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """A mapping of settings: dotted paths below a model, and its groups as mappings of their own."""
    properties: dict[str, Any] = {}
    for path, owner, name in _paths(model, ""):
        if path == "seed":
            continue
        inner = _group(owner, name)
        if inner is None:
            properties[path] = _leaf(owner, name)
        else:
            key = f"Settings.{inner.__name__}"
            if key not in definitions:
                definitions[key] = {}  # stands for itself while it is made
                definitions[key] = _settings(inner, definitions)
            properties[path] = {"$ref": f"#/$defs/{key}", "description": (inner.__doc__ or "").split("\n")[0]}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _paths(model: type[BaseModel], prefix: str) -> list[tuple[str, type[BaseModel], str]]:
    found = []
    for name in model.model_fields:
        found.append((f"{prefix}{name}", model, name))
        inner = _group(model, name)
        if inner is not None:
            found += _paths(inner, f"{prefix}{name}.")
    return found


def _group(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    annotation = model.model_fields[name].annotation
    if "tuple" in str(annotation):  # a list is set as a whole
        return None
    inner = models_in(annotation)
    return inner[0] if inner else None


def _leaf(model: type[BaseModel], name: str) -> dict[str, Any]:
    described = model.model_json_schema()["properties"][name]
    return {key: value for key, value in described.items() if key != "title"}


def _used(name: str, content: dict[str, Any]) -> bool:
    return f'"#/$defs/{name}"' in json.dumps(content)


def main(arguments: list[str]) -> int:
    """Print a schema, or write both.

    Args:
        arguments: Empty, `--presets` or `--write`.
    """
    if arguments == ["--write"]:
        for name, make in FILES.items():
            path = Path(folder()) / name
            path.write_text(text(make()), encoding="utf-8")
            print(path)
        return 0
    if arguments not in ([], ["--presets"]):
        print(f"expected --presets, --write or nothing, got {' '.join(arguments)}; {__doc__}", file=sys.stderr)
        return 2
    sys.stdout.write(text(preset_schema() if arguments else schema()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
