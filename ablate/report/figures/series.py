"""Which rows of a table make a line: labels that differ in a number alone, where it is the value of a setting."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablate.report.results import Results
from ablate.spaces.yamlfile import flatten

_NUMBER = re.compile(r"(?:(?<![^\s(=:])[-+])?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"[a-z]{2,}")

Settings = Mapping[str, float]
"""Dotted path -> value, of what is a number."""

_Stem = tuple[str, str]


@dataclass(frozen=True)
class Series:
    """Rows that are named alike but for a number.

    Attributes:
        name: What their labels share; empty where these are numbers alone.
        at: Row label -> its number, in the table's order.
    """

    name: str
    at: Mapping[str, float]


@dataclass(frozen=True)
class Axis:
    """Lines over one setting.

    Attributes:
        setting: Its dotted path; empty where labels are numbers of something else.
        series: A line each.
    """

    setting: str
    series: tuple[Series, ...]

    @property
    def words(self) -> str:
        """What the axis is called."""
        return self.setting.rpartition(".")[2].replace("_", " ")

    @property
    def ticks(self) -> dict[float, str]:
        """Number -> how the first label with it writes it."""
        found: dict[float, str] = {}
        for series in self.series:
            for label, number in series.at.items():
                found.setdefault(number, label if not series.name else f"{number:g}")
        return dict(sorted(found.items()))


def arrange(labels: Sequence[str], settings: Mapping[str, Settings]) -> tuple[list[Axis], list[str]]:
    """Sort rows into lines and others.

    A label that is a number needs no setting. In any other a number counts where it is a setting's value in each row
    of the line, so that `ResNet-20` or `variant 2` are words.

    Args:
        labels: Of the table's rows, in its order.
        settings: Of each row, as far as they are known.

    Returns:
        Axes with the rows that lie on lines, and the labels of the others.
    """
    stems: dict[_Stem, dict[str, float]] = {}
    for label in labels:
        for stem, number in _readings(label):
            stems.setdefault(stem, {})[label] = number
    left = dict.fromkeys(labels)
    axes: dict[str, list[Series]] = {}
    for stem, numbers in sorted(stems.items(), key=lambda each: -len(each[1])):
        rows = {label: number for label, number in numbers.items() if label in left}
        path = _setting(stem, {label: settings[label] for label in rows if label in settings}, rows)
        if len(rows) < 2 or len(set(rows.values())) < len(rows) or (path is None and any(stem)):
            continue
        axes.setdefault(path or "", []).append(Series(_name(*stem), rows))
        left = {label: None for label in left if label not in rows}
    order = {label: place for place, label in enumerate(labels)}
    found = [
        Axis(path, tuple(sorted(lines, key=lambda line: order[next(iter(line.at))]))) for path, lines in axes.items()
    ]
    return sorted(found, key=lambda axis: order[next(iter(axis.series[0].at))]), list(left)


def _readings(label: str) -> list[tuple[_Stem, float]]:
    """(what stands before and behind a number, that number), for each number in a label."""
    try:
        found = [(("", ""), float(label))]
    except ValueError:
        found = [((label[: at.start()], label[at.end() :]), float(at[0])) for at in _NUMBER.finditer(label)]
    return [(stem, number) for stem, number in found if math.isfinite(number)]


def _name(before: str, behind: str) -> str:
    if not before + behind:
        return ""
    apart = before[-1:] in ("", " ") and behind[:1] in ("", " ")  # a word of its own, that is not missed
    return " ".join(f"{before}{behind}".split()) if apart else f"{before}n{behind}"


def _setting(stem: _Stem, known: Mapping[str, Settings], numbers: Mapping[str, float]) -> str | None:
    """The path whose value is each row's number; of several the one that the label speaks of."""
    if len(known) < 2:
        return None
    first = next(iter(known.values()))
    paths = [path for path in first if all(row.get(path) == numbers[label] for label, row in known.items())]
    words = set(_WORD.findall(" ".join(stem).casefold()))
    return max(paths, key=lambda path: len(words & set(_WORD.findall(path.casefold()))), default=None)


def settings_of(results: Results) -> dict[str, Settings]:
    """Row -> its settings that are numbers."""
    found: dict[str, Settings] = {}
    for (row, _), trial in results.trials.items():
        if row not in found:
            found[row] = {path: float(value) for path, value in flatten(trial.part.spec) if _is_number(value)}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
