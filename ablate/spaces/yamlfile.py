"""YAML files whose every key remembers its line, and pydantic's errors in the user's own terms."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ablate.core.errors import SpecError, nearest
from ablate.core.text import left_over, plural, reason_of

Place = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


class PlacedError(ValueError):
    """What a model refuses as a whole, though one place of it is to blame.

    Args:
        place: Keys and item numbers from the model on.
        message: `expected ..., got ...`.
    """

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


MOST_VALUES = 100_000
"""In one file, aliases counted each time: a few lines of them can stand for billions."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where PyYAML silently takes the last, and guesses at no value.

    Numbers and truth values are those of YAML 1.2. PyYAML follows 1.1, to which 010 is 8, 1:30 is 90, no is false and
    5e-4 is text: here all but the last stay text, which is refused by its line where a number is wanted.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}
    bool_values: ClassVar[dict[str, bool]] = {"true": True, "false": False}


class _ValueLoader(_Loader):
    """One value of the command line, where no file of today says True."""

    yaml_implicit_resolvers: dict[str, Any] = {}


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's parser, where PyYAML has it, many times as fast: for nodes alone, which `_Loader` makes values of."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(
    r"(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"expected text as a key, got {key!r} (quote it)", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"expected each key once, got {key!r} again (first on line {seen[key]})",
                key_node.start_mark,
            )
        seen[key] = line
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True) for key, value in node.value
    }


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if not _INTEGER.match(text):  # an explicit !!int
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node))
    if not (_FLOAT.match(text) or _INTEGER.match(text)):
        raise ValueError(f"{text!r} is no number")
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
for _loader, _truths in ((_Loader, "true|True|TRUE|false|False|FALSE"), (_ValueLoader, "true|false")):
    for _tag, _pattern, _first in (
        ("bool", re.compile(rf"(?:{_truths})\Z"), "tTfF"),
        ("int", _INTEGER, "-0123456789"),
        ("float", _FLOAT, "-+.0123456789"),
        ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    ):
        _loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<\Z"), ["<"])

# What PyYAML's constructors raise at values that do not fit their tag, like `!!bool maybe` or `2024-13-45`.
_UNFIT = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)


def read_value(text: str) -> Any:
    """One value in YAML, as on the command line: the whole text, of which no end is a comment.

    Args:
        text: The value.

    Returns:
        Plain data; what is neither a list, a mapping, in quotes, a number nor a truth value is text.

    Raises:
        SpecError: It is no YAML; without its origin, which the caller knows.
    """
    text = text.strip()
    try:
        node = yaml.compose(text, Loader=_ValueLoader)
    except yaml.YAMLError as error:
        if text.startswith(tuple("[{'\"!&*|>")) or "\n" in text or ": " in text:
            raise _no_value(text, error) from error
        node = None  # like @x: nothing in YAML, text here
    except _UNFIT as error:
        raise _no_value(text, error) from error
    loader = _ValueLoader("")
    if node is None or (isinstance(node, yaml.ScalarNode) and node.style is None and not text.startswith("!")):
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        node = yaml.ScalarNode(tag, text)
    elif comment := _comment(text):
        raise SpecError(f"expected one value, got {describe(comment)} after it")
    try:
        return loader.construct_document(node)
    except _UNFIT as error:
        raise _no_value(text, error) from error


def _comment(text: str) -> str:
    end = 0
    for token in yaml.scan(text, Loader=_ValueLoader):
        between = text[end : token.start_mark.index]
        if "#" in between:
            return between[between.index("#") :].strip()
        end = max(end, token.end_mark.index)
    return ""


def _no_value(text: str, error: BaseException) -> SpecError:
    problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else reason_of(error)
    return SpecError(f"expected a value in YAML, got {describe(text)} ({problem})")


MOST_NESTED = 2_000
"""Brackets and characters of the longest line of what libyaml is given: it has no guard against a stack too deep."""


def _compose(text: str) -> yaml.Node | None:
    nested = text.count("[") + text.count("{") + max(map(len, text.splitlines()), default=0)
    if nested <= MOST_NESTED:
        with contextlib.suppress(yaml.YAMLError, ValueError):  # told below, in the words of one parser everywhere
            return yaml.compose(text, Loader=_FastLoader)
    return yaml.compose(text, Loader=_Loader)


class YamlFile:
    """A parsed file: `data`, and the line of every key and item in it.

    Raises:
        SpecError: It cannot be read, is not YAML, or does not hold a mapping.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"{path}: expected a readable UTF-8 file, got {reason_of(error)}") from error
        try:
            node = _compose(text)
            data = None if node is None else _Loader("").construct_document(node)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark else ""
            raise SpecError(f"{path}{line}: {_problem(error)}") from error
        except _UNFIT as error:
            raise SpecError(f"{path}: expected YAML, got a value that does not fit: {reason_of(error)}") from error
        if not isinstance(data, dict):
            raise SpecError(f"{path}:1: expected a mapping of keys to values, got {describe(data)}")
        self.data: dict[str, Any] = data
        self._lines: dict[Place, int] = {}
        self._count = 0
        if node is not None:
            self._mark(node, ())

    def _mark(self, node: yaml.Node, place: Place) -> None:
        self._count += 1
        if self._count > MOST_VALUES:
            raise SpecError(f"{self.path}: expected at most {MOST_VALUES:,} values, got more")
        self._lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*place, str(key.value))
                self._lines[inner] = key.start_mark.line + 1
                self._mark(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                self._mark(value, (*place, number))

    def where(self, place: Place) -> str:
        """The file and line of a place, or of the nearest one around it.

        Args:
            place: Keys and item numbers from the top.

        Returns:
            `path:line`.
        """
        line = self._line(place)
        return str(self.path) if line is None else f"{self.path}:{line}"

    def _line(self, place: Place) -> int | None:
        lines = (self._lines.get(place[:length]) for length in range(len(place), -1, -1))
        return next((line for line in lines if line is not None), None)

    def stands_for(self, place: Place, source: Place) -> None:
        """A place that is not in the file has the line of what was written for it.

        Args:
            place: Keys and item numbers from the top.
            source: As of `where`.
        """
        line = self._line(source)
        if line is not None:
            self._lines[place] = line

    def validate(self, model: type[Model]) -> Model:
        """The file as a pydantic model.

        Args:
            model: What it should be.

        Raises:
            SpecError: With the file, line and path of each thing that is wrong.
        """
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            raise SpecError(explain(error, model, self.where)) from error


def _problem(error: yaml.MarkedYAMLError) -> str:
    text = error.problem or "a syntax error"
    if text.startswith("but found") and error.context:
        text = f"{error.context}, {text}"
    return text if text.startswith("expected") else f"expected YAML, got a problem: {text}"


def describe(value: object) -> str:
    """A value as an error message shows it: short, with its kind where that is the point."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of more than some thousand digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."


def fields_at(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """The valid keys at a place inside a model, for pointing out the nearest one.

    Args:
        model: Where the path starts.
        place: Keys and item numbers that lead to the place.

    Returns:
        Field names; empty where the place is no model.
    """
    current: Any = model
    for step in place:
        if isinstance(step, int):
            continue
        candidates = [c for c in models_in(current) if step in c.model_fields]
        if not candidates:
            # pydantic names the variant of a union in its error's place; it is no key of the file.
            named = [c for c in models_in(current) if c.__name__ == step]
            if named:
                current = named[0]
            continue
        current = candidates[0].model_fields[step].annotation
    return sorted({name for candidate in models_in(current) for name in candidate.model_fields})


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models an annotation may hold, through unions, tuples and dicts."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in models_in(part)]


_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text (quote it)",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "missing": "a value",
}


def explain(error: ValidationError, model: type[BaseModel], where: Any, most: int = 5) -> str:
    """A pydantic error as lines of "place: path: expected X, got Y".

    Args:
        error: From validating `model`.
        model: What was expected.
        where: Maps a place (tuple of keys) to its file and line, or origin.
        most: How many problems to spell out.

    Returns:
        One line for each problem.
    """
    lines: list[str] = []
    problems = error.errors(include_url=False)
    # A list whose only item is refused is told to be too short, too.
    inner = {tuple(problem["loc"])[:length] for problem in problems for length in range(len(problem["loc"]))}
    problems = [each for each in problems if each["type"] != "too_short" or tuple(each["loc"]) not in inner]
    for problem in problems[:most]:
        place: Place = tuple(problem["loc"])
        place += getattr(problem.get("ctx", {}).get("error"), "place", ())
        path = ".".join(str(step) for step in place) or "the whole"
        kind = problem["type"]
        if kind == "extra_forbidden":
            valid = fields_at(model, place[:-1])
            text = f"{path}: expected a known key, got {place[-1]!r}; {nearest(str(place[-1]), valid)}"
        elif kind == "missing":
            text = f"{path}: expected a value, got nothing"
        elif kind in ("value_error", "assertion_error"):
            text = f"{path}: {str(problem['ctx']['error']) if 'ctx' in problem else problem['msg']}"
        elif kind in ("too_short", "string_too_short"):
            text = f"{path}: expected at least {_items(problem['ctx']['min_length'], kind)}, got {_length(problem)}"
        elif kind in ("too_long", "string_too_long"):
            text = f"{path}: expected at most {_items(problem['ctx']['max_length'], kind)}, got {_length(problem)}"
        else:
            expected = _KINDS.get(kind) or _lower(problem["msg"])
            text = f"{path}: expected {expected}, got {describe(problem['input'])}"
            if meant := likely(problem["input"], kind, str(place[-1]) if place else ""):
                text += f"; did you mean {meant}?"
            if kind == "literal_error" and isinstance(problem["input"], str):
                names = [part.strip("' ") for part in str(problem["ctx"]["expected"]).replace(" or ", ", ").split(",")]
                text += f"; {nearest(problem['input'], names)}"
        lines.append(f"{where(place)}: {text}")
    return "\n".join([*dict.fromkeys(lines), *left_over(len(problems), most)])


_TRUTHS = dict.fromkeys(("true", "yes", "on", "y", "1"), "true")
_TRUTHS |= dict.fromkeys(("false", "no", "off", "n", "0"), "false")
_GROUPED = re.compile(r"[-+]?\d+(?:[_,' ]\d+)+(?:\.\d+)?")
_BASED = re.compile(r"[-+]?0(?:[xX][0-9a-fA-F_]+|[oO][0-7_]+|[bB][01_]+)")
_SIXTIETHS = re.compile(r"[-+]?\d+(?::[0-5]?\d)+")
_FRACTION = re.compile(r"([-+]?\d+(?:\.\d*)?)\s*/\s*(\d+(?:\.\d*)?)")


def likely(value: object, kind: str, field: str) -> str | None:
    """What somebody probably meant by a value that is refused.

    Args:
        value: What was given.
        kind: Of pydantic's error: which type was expected.
        field: Name of the setting; one in 1/255 is told from others by its name.

    Returns:
        As it should be written; None where nobody can tell.
    """
    if kind not in ("int_type", "int_from_float", "float_type", "bool_type"):
        return None
    if isinstance(value, str):
        if kind == "bool_type":
            return _TRUTHS.get(value.strip().lower())
        number = _number(value.strip()[:100], field)
    elif isinstance(value, float) and kind != "bool_type":
        number = value
    else:
        return None
    if number is None or not math.isfinite(number):
        return None
    if number == int(number):
        return str(int(number))
    return None if kind.startswith("int") else f"{number:.6g}"


def _number(text: str, field: str) -> float | None:
    if _BASED.fullmatch(text):
        return int(text, 0) if "_" not in text else int(text.replace("_", ""), 0)
    if _SIXTIETHS.fullmatch(text):  # as YAML 1.1 takes it
        whole = 0
        for part in text.lstrip("+-").split(":"):
            whole = whole * 60 + int(part)
        return -whole if text.startswith("-") else whole
    if fraction := _FRACTION.fullmatch(text):
        above, below = float(fraction[1]), float(fraction[2])
        if field.endswith("_255") and below == 255:
            return above
        return above / below if below else None
    if _GROUPED.fullmatch(text):
        text = re.sub("[_,' ]", "", text)
    try:
        return float(text)
    except ValueError:
        return None


def _items(count: int, kind: str) -> str:
    return plural(count, "character" if kind.startswith("string") else "item")


def _length(problem: Any) -> str:
    return str(len(problem["input"])) if hasattr(problem["input"], "__len__") else describe(problem["input"])


def _lower(message: str) -> str:
    text = message.removeprefix("Input should be ").removeprefix("Value should ")
    return text[:1].lower() + text[1:]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested settings as (dotted path, leaf value) pairs.

    Args:
        settings: Dotted paths or nested mappings, mixed as a space file allows.
        prefix: Put before every path.

    Yields:
        Pairs; an empty mapping is a leaf of its own, so that it is not lost.
    """
    for key, value in settings.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{path}.")
        else:
            yield path, value
