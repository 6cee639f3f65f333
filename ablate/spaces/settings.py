"""Settings: dotted paths with their values and origins, and how they make a spec."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ablate.core.errors import SpecError, meant_name, nearest
from ablate.spaces.specs import MeasurementSpec, TrialSpec
from ablate.spaces.yamlfile import explain, flatten, models_in, read_value

PATHS = frozenset({"data.root", "model.weights"})
"""Settings that are the path of a folder or file, where `~` is home."""


@dataclass(frozen=True)
class Setting:
    """One dotted path with its value and where it was written."""

    path: str
    value: Any
    origin: str


def format_value(value: Any) -> str:
    """A value as tables and notes show it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def parse_overrides(texts: Iterable[str]) -> list[Setting]:
    """`--set path=value` arguments as settings.

    Args:
        texts: Each `dotted.path=value`; what stands after the first `=` is the value, whole: text where the setting is
            text, else as YAML 1.2 reads it.

    Raises:
        SpecError: No `=`, or a value that is no YAML.
    """
    settings = []
    for text in texts:
        path, equals, value = text.partition("=")
        origin = f"--set {text}"
        if not equals or not path.strip():
            raise SpecError(f"{origin}: expected path=value, got {text!r}")
        if path != path.rstrip():  # spaces around the sign are no part of the value
            value = value.strip()
        path = path.strip()
        try:
            parsed = _text(path, value) if _takes_text(path) else read_value(value)
        except SpecError as error:
            raise SpecError(f"{origin}: {error}") from error
        settings += [Setting(leaf, inner, origin) for leaf, inner in flatten({path: parsed})]
    return settings


def _text(path: str, value: str) -> Any:
    """The value of a setting that is text: as it stands, but for quotes around the whole of it."""
    stripped = value.strip()
    if stripped in ("", "null") or (stripped == "~" and path not in PATHS):
        return None
    if stripped[0] in "'\"" and stripped[-1] == stripped[0] and len(stripped) > 1:
        with contextlib.suppress(SpecError):
            read = read_value(stripped)
            if isinstance(read, str):
                return read
    return value


def _takes_text(path: str) -> bool:
    model: type[BaseModel] | None = TrialSpec
    annotation: Any = None
    for step in path.split("."):
        if model is None or step not in model.model_fields:
            return False
        annotation = model.model_fields[step].annotation
        inner = models_in(annotation)
        model = inner[0] if len(inner) == 1 else None
    return _is_text(annotation)


def _is_text(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Literal:
        return all(isinstance(value, str) for value in get_args(annotation))
    if origin in (Union, UnionType):
        return any(_is_text(part) for part in get_args(annotation))
    return annotation is str


@functools.cache
def setting_paths(model: type[BaseModel] = TrialSpec, prefix: str = "") -> tuple[str, ...]:
    """Every dotted path of `TrialSpec` that can be set, groups included."""
    paths: list[str] = []
    for name, field in model.model_fields.items():
        paths.append(f"{prefix}{name}")
        if "tuple" not in str(field.annotation):  # a list is set as a whole
            for inner in models_in(field.annotation):
                paths += setting_paths(inner, f"{prefix}{name}.")
    return tuple(paths)


def build_spec(settings: Sequence[Setting], seed: int, what: str) -> TrialSpec:
    """Settings applied in order (the later wins) to the paper's defaults.

    Args:
        settings: From the space, the preset and the command line, in this order.
        seed: The trial's seed.
        what: Names the trial in an error that no single setting caused.

    Raises:
        SpecError: With the origin and dotted path of what is wrong.
    """
    nested: dict[str, Any] = {}
    origins: dict[str, str] = {}
    valid = set(setting_paths())
    for setting in settings:
        if setting.path not in valid or setting.path == "seed":
            hint = "use --seeds" if setting.path == "seed" else _nearest_path(setting.path)
            raise SpecError(f"{setting.origin}: {setting.path}: expected a known setting, got {setting.path!r}; {hint}")
        *parents, leaf = setting.path.split(".")
        inner = nested
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise SpecError(f"{setting.origin}: {setting.path}: expected a mapping at {parent!r}, got {inner!r}")
        if setting.value == {} and isinstance(inner.get(leaf), dict):
            continue  # an empty group changes nothing, as a group of one key changes only that
        inner[leaf] = setting.value if not isinstance(setting.value, Mapping) else dict(setting.value)
        origins.pop(setting.path, None)  # the last that was set stands last
        origins[setting.path] = setting.origin

    def where(place: tuple[str | int, ...]) -> str:
        steps = [str(step) for step in place]
        for length in range(len(steps), 0, -1):
            path = ".".join(steps[:length])
            for known in reversed(origins):
                if known == path or known.startswith(path + "."):
                    return origins[known]
        return what

    try:
        return TrialSpec.model_validate({**nested, "seed": seed})
    except ValidationError as error:
        [whole, *_] = [str(problem["msg"]) for problem in error.errors() if not problem["loc"]] or [""]
        named = [setting.origin for setting in settings if setting.path in whole]
        what = named[-1] if named else what
        raise SpecError(explain(error, TrialSpec, where)) from error


def _nearest_path(path: str) -> str:
    """Points a mistyped setting to the nearest: beside it, of the same last name, or among all there are."""
    parent, last = _split(path)
    paths = setting_paths()
    beside = {_split(known)[1]: known for known in paths if _split(known)[0] == parent}
    lasts = {_split(known)[1]: known for known in reversed(paths)}
    begun = [name for name in beside if last and name.startswith(last)]
    if name := begun[0] if begun else meant_name(last, beside):
        return f"did you mean {beside[name]!r}?"
    if name := meant_name(last, lasts, cutoff=0.7):
        return f"did you mean {lasts[name]!r}?"
    return "valid: " + ", ".join(sorted(beside or {known for known in paths if "." not in known}))


def _split(path: str) -> tuple[str, str]:
    parent, _, last = path.rpartition(".")
    return parent, last


def values_of(settings: MeasurementSpec, names: Iterable[str]) -> dict[str, Any]:
    """Some settings of a measurement, by their names.

    Raises:
        SpecError: There is no such setting.
    """
    known = MeasurementSpec.model_fields
    for name in names:
        if name not in known:
            raise SpecError(
                f"measurement.analyses: expected a setting of measurement, got {name!r}; {nearest(name, known)}"
            )
    return {name: getattr(settings, name) for name in names}
