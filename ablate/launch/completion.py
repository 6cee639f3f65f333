"""What a shell offers after --space, --preset and --set."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ablate import spaces
from ablate.spaces.settings import setting_paths
from ablate.spaces.specs import TrialSpec
from ablate.spaces.yamlfile import models_in


def space_names(incomplete: str) -> Iterator[tuple[str, str]]:
    """Names of spaces that begin so, each with its title.

    Yields:
        (name, title); `all` too.
    """
    for name in spaces.space_names():
        if name.startswith(incomplete):
            yield name, spaces.load_space(name).space.title
    if "all".startswith(incomplete):
        yield "all", "Every table"


def preset_names(incomplete: str) -> list[str]:
    """Names of presets that begin so."""
    return [name for name in spaces.preset_names() if name.startswith(incomplete)]


def settings(incomplete: str) -> Iterator[tuple[str, str]]:
    """What may follow `--set`: paths, and after `path=` its values where they are named.

    Yields:
        (`training.epochs=`, what it is), or (`model.activation=relu`, "").
    """
    path, equals, _ = incomplete.partition("=")
    for known, field in leaf_fields():
        if equals and known == path:
            for text in (f"{path}={value}" for value in _values(field)):
                if text.startswith(incomplete):
                    yield text, ""
        elif not equals and known.startswith(incomplete):
            yield f"{known}=", field.description or ""


def leaf_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting that is no group, by its dotted path, without the seed, which has an option of its own."""
    paths = set(setting_paths())
    for path in setting_paths():
        if path == "seed" or any(other.startswith(f"{path}.") for other in paths):
            continue
        yield path, field_of(path)


def field_of(path: str) -> FieldInfo:
    """The field of a dotted path.

    Args:
        path: One of `setting_paths()`.
    """
    model: type[BaseModel] = TrialSpec
    *parents, leaf = path.split(".")
    for parent in parents:
        model = models_in(model.model_fields[parent].annotation)[0]  # a group that may be left out is a union with None
    return model.model_fields[leaf]


def _values(field: FieldInfo) -> list[str]:
    parts = [field.annotation]
    if get_origin(field.annotation) in (Union, types.UnionType):
        parts = list(get_args(field.annotation))
    found: list[str] = []
    for part in parts:
        if part is bool:
            found += ["true", "false"]
        elif get_origin(part) is Literal:
            found += [str(value) for value in get_args(part)]
    return found
