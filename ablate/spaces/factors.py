"""Shorthands for rows: factors in all combinations of their levels, grids of settings, and settings that go together.

A row's label names each factor with its level, or each setting by the end of its path with its value. Rows come in the
order of the file, the first factor's levels outermost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from ablate.core.errors import nearest
from ablate.spaces.settings import format_value
from ablate.spaces.yamlfile import Place, PlacedError, flatten

MOST_ROWS = 1000
LONGEST_LABEL = 80

Levels = Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
Factors = dict[str, Levels]
"""Factor -> level -> its settings."""

Values = dict[str, Annotated[list[Any], Field(min_length=1)]]
"""Dotted path of a setting -> its values."""


@dataclass(frozen=True)
class MadeRow:
    """A row that a shorthand stands for.

    Attributes:
        label: Of the row.
        set: What makes it.
        place: Where the shorthand is in the file.
        places: Setting -> where in the file.
    """

    label: str
    set: Mapping[str, Any]
    place: Place
    places: Mapping[str, Place]


@dataclass(frozen=True)
class _Choice:
    """One level of a factor, or one value of a setting."""

    words: str
    set: Mapping[str, Any]
    place: Place


def made_rows(factors: Factors, grid: Values, zipped: Values) -> list[MadeRow]:
    """The rows that shorthands stand for.

    Args:
        factors: As in the file.
        grid: Settings of which every combination is a row.
        zipped: Settings whose first values are a row, and their second ones, and so on.

    Returns:
        Those of the factors, of the grid, and of what goes together, in this order.

    Raises:
        PlacedError: Something that makes no rows, with its place in the file.
    """
    levels = [
        [_Choice(f"{factor} {level}", set_, ("factors", factor, level)) for level, set_ in found.items()]
        for factor, found in factors.items()
    ]
    _refuse_clashes(factors)
    rows = _all("factors", levels)
    rows += _all("grid", list(_choices("grid", grid).values()))
    lengths = {path: len(values) for path, values in zipped.items()}
    for path, length in lengths.items():
        first = next(iter(lengths))
        if length != lengths[first]:
            raise PlacedError(("zip", path), f"expected as many values as {first} has, {lengths[first]}, got {length}")
    rows += [_row("zip", together) for together in zip(*_choices("zip", zipped).values(), strict=True)]
    return rows


def corners(factors: Factors, pair: Sequence[str], at: Mapping[str, str]) -> tuple[str, str, str, str]:
    """The four rows of two factors' interaction: both at their second level, the one, the other, neither.

    Args:
        factors: Of the space.
        pair: The two, of two levels each.
        at: Level of each other factor.

    Raises:
        PlacedError: An unknown factor or level, or not two levels; the place is within the statement.
    """
    for place, name in [*((("factors", number), name) for number, name in enumerate(pair)), *_named(at)]:
        if name not in factors:
            raise PlacedError(place, f"expected a factor of this space, got {name!r}; {nearest(name, factors)}")
    for number, name in enumerate(pair):
        if len(factors[name]) != 2:
            told = f"expected a factor of two levels, got {name!r} of {len(factors[name])}; name the four rows instead"
            raise PlacedError(("factors", number), told)
    for name, level in at.items():
        if name in pair:
            raise PlacedError(("at", name), f"expected another factor than the two that interact, got {name!r}")
        if level not in factors[name]:
            told = f"expected a level of {name}, got {level!r}; {nearest(level, factors[name])}"
            raise PlacedError(("at", name), told)
    lacking = [name for name in factors if name not in (*pair, *at)]
    if lacking:
        raise PlacedError(("at",), f"expected the level of every other factor, got none of {lacking[0]!r}")

    def label(one: int, other: int) -> str:
        chosen = {**at, pair[0]: list(factors[pair[0]])[one], pair[1]: list(factors[pair[1]])[other]}
        return ", ".join(f"{name} {chosen[name]}" for name in factors)

    return label(1, 1), label(1, 0), label(0, 1), label(0, 0)


def _named(at: Mapping[str, str]) -> list[tuple[Place, str]]:
    return [(("at", name), name) for name in at]


def _refuse_clashes(factors: Factors) -> None:
    """Two factors that set the same would leave a row that is not what its label says."""
    owners: dict[str, str] = {}
    for factor, levels in factors.items():
        for level, settings in levels.items():
            for path, _ in flatten(settings):
                if owners.setdefault(path, factor) != factor:
                    told = f"expected each setting in one factor, got {path} in {owners[path]!r}, too"
                    raise PlacedError(("factors", factor, level), told)


def _choices(what: str, settings: Values) -> dict[str, list[_Choice]]:
    names = _short(settings)
    found: dict[str, list[_Choice]] = {}
    for path, values in settings.items():
        for number, value in enumerate(values):
            place = (what, path, number)
            if isinstance(value, Mapping):
                raise PlacedError(place, "expected a plain value, got a mapping; factors sets several settings at once")
            found.setdefault(path, []).append(_Choice(f"{names[path]} {format_value(value)}", {path: value}, place))
    return found


def _short(paths: Iterable[str]) -> dict[str, str]:
    """Each path by as much of its end as tells it from the others."""
    parts = {path: path.split(".") for path in paths}
    found = {}
    for path, own in parts.items():
        others = [other for name, other in parts.items() if name != path]
        length = next((n for n in range(1, len(own)) if all(o[-n:] != own[-n:] for o in others)), len(own))
        found[path] = ".".join(own[-length:])
    return found


def _all(what: str, choices: Sequence[Sequence[_Choice]]) -> list[MadeRow]:
    if not choices:
        return []
    count = math.prod(map(len, choices))
    if count > MOST_ROWS:
        raise PlacedError((what,), f"expected at most {MOST_ROWS} rows, got {count:,} combinations")
    return [_row(what, together) for together in itertools.product(*choices)]


def _row(what: str, chosen: Iterable[_Choice]) -> MadeRow:
    settings: dict[str, Any] = {}
    places: dict[str, Place] = {}
    words = []
    for choice in chosen:
        words.append(choice.words)
        for path, value in flatten(choice.set):
            settings[path] = value
            places[path] = (*choice.place, path) if what == "factors" else choice.place
    label = ", ".join(words)
    if len(label) > LONGEST_LABEL:
        told = f"expected names that make a label of at most {LONGEST_LABEL} characters, got {label!r}"
        raise PlacedError((what,), told)
    return MadeRow(label, settings, (what,), places)
