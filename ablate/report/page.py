"""The report page: one HTML file that opens from disk, prints, fits a phone, and needs neither network nor script."""

from __future__ import annotations

import base64
import dataclasses
import functools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ablate.report.figures.pictures import Picture
from ablate.report.formats import MASKED, NOTHING, deviation, marks, number
from ablate.report.names import column_name, with_minus
from ablate.report.tables import Line, Row, Table
from ablate.report.verdicts.masking import SECOND
from ablate.report.verdicts.noise import TableNoise
from ablate.report.verdicts.rivals import Answer, rivalries
from ablate.report.verdicts.verdicts import Verdict

_FOLDER = Path(__file__).parent
_SIGNS = {"holds": "✓", "fails": "✗", "not enough evidence": "?"}
_ONE_WORD = re.compile(r"\bn = \d+|\d %|± (?=\d)")
_FOLDED_FROM = 4  # so many comparisons of a claim are folded away
_HEADER = 14
"""So many letters of a column's header beside each other: it is hardly wider than the numbers below."""
_MOST_BESIDE = 6
"""So many rows at most stand beside each other where there are fewer scalars than that."""


@dataclass(frozen=True)
class Link:
    """A run in MLflow: its words, and where it is; without a server there is no address, and its id is told."""

    text: str
    url: str | None = None
    run_id: str = ""


@dataclass(frozen=True)
class Missing:
    """A figure that could not be drawn, and why."""

    title: str
    reason: str


@dataclass(frozen=True)
class SpacePage:
    """What the page says of one space.

    Args:
        name: Of the space.
        title: Of the space.
        description: One sentence.
        facts: (term, description): plan, preset, seeds, data ...
        table: Published beside ours; columns that are no accuracies become a table of their own.
        runs: (row label, source of a line) -> the runs its numbers come from; None of numbers that are not MLflow's.
        verdicts: (ours, published), by claim; no second one where nothing was published.
        second: Number of a claim on a masked column -> its verdict on `worst`.
        noise: What makes the noise of the comparisons; None where that is not known.
        verdict_note: Which data verdicts are about, or why there are none.
        unjudged: What its claims say, in quotes, where there are no verdicts.
        figures: Pictures, or why there is none.
        problems: Rows and seeds that failed or are missing, with the reason.
        left_out: Runs that the page shows nothing of, each with what is wrong.
        pages: Where MLflow shows all runs of the space, and where it compares them; none without a server.
    """

    name: str
    title: str
    description: str
    table: Table
    facts: Sequence[tuple[str, str]] = ()
    runs: Mapping[tuple[str, str], Sequence[Link]] | None = field(default_factory=dict)
    verdicts: Sequence[tuple[Verdict, Verdict | None]] = ()
    second: Mapping[int, Verdict] = field(default_factory=dict)
    noise: TableNoise | None = None
    verdict_note: str = ""
    unjudged: Sequence[str] = ()
    figures: Sequence[Picture | Missing] = ()
    problems: Sequence[str] = ()
    left_out: Sequence[str] = ()
    pages: Sequence[Link] = ()


@dataclass(frozen=True)
class PageData:
    """Everything the page says.

    Args:
        title: Of the page.
        made: When it was made, as text.
        facts: (term, description): commit, devices, data, hours, what was shared ...
        spaces: In the order of the page.
        left_aside: What cannot be shown at all, each with what is wrong.
    """

    title: str
    made: str
    facts: Sequence[tuple[str, str]]
    spaces: Sequence[SpacePage]
    left_aside: Sequence[str] = ()


def render(page: PageData) -> str:
    """The page as HTML.

    Args:
        page: What it says; every text in it is escaped.

    Returns:
        One self-contained document: style and pictures are inside.
    """
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    template = templates(_FOLDER).get_template("page.html")
    source = "MLflow's runs" if any(space.runs is not None for space in page.spaces) else "a storage"
    return template.render(page=page, style=style, source=source, spaces=[_space(space) for space in page.spaces])


def render_space(space: SpacePage) -> str:
    """One section of the page as HTML, for a page of another frame.

    Args:
        space: What it says; every text in it is escaped.
    """
    return templates(_FOLDER).get_template("space.html").render(space=_space(space)).strip()


@functools.cache
def templates(folder: Path) -> Environment:
    """The templates in a folder: every text that they are given is escaped."""
    # Undefined names fail a test rather than leave a hole in the page.
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_typeset,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _typeset(value: Any) -> Any:
    """Text with minus signs before numbers, and what is read as one word on one line."""
    if type(value) is not str:  # markup is what it is
        return value
    return _ONE_WORD.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), with_minus(value))


def _space(space: SpacePage) -> dict[str, Any]:
    accuracies, numbers = tuple(space.table.beside), marks(space.table)
    return {
        **{each.name: getattr(space, each.name) for each in dataclasses.fields(space)},
        "linked": space.runs is not None,
        "columns": [_header(space.table.header(column)) for column in accuracies],
        "rows": [_row(row, accuracies, numbers.get(row.label, ""), space) for row in space.table.rows],
        "footnotes": space.table.footnotes(),
        "scalars": _scalars(space.table),
        "width": _width(2 + len(accuracies) + (space.runs is not None)),
        "rivalries": [
            {
                "question": each.question,
                "sentence": each.sentence,
                "published": any(answer.published is not None for answer in each.answers),
                "answers": [_answer(answer) for answer in each.answers],
            }
            for each in rivalries(space.verdicts, space.second)
        ],
        "noise": _noise(space.noise) if space.noise is not None else None,
        "verdicts": [
            _verdict(ours, published, space.second.get(number))
            for number, (ours, published) in enumerate(space.verdicts)
        ],
        "figures": [_figure(figure) for figure in space.figures],
    }


def _header(words: str) -> str:
    return textwrap.fill(words, _HEADER, break_long_words=False, break_on_hyphens=False)


def _row(row: Row, columns: Sequence[str], mark: str, space: SpacePage) -> dict[str, Any]:
    lines = []
    for line in row.lines:
        source = line.source + (f": {line.state}" if line.state else f", n = {line.n}" if line.n else "")
        cells = [_cell(line, column) for column in columns]
        lines.append(
            {
                "kind": line.source.split(",")[0],
                "source": source,
                "cells": cells,
                "runs": (space.runs or {}).get((row.label, line.source), ()),
            }
        )
    return {"label": row.label, "mark": mark, "lines": lines}


def _cell(line: Line, column: str) -> dict[str, Any]:
    cell = line.cells.get(column)
    if cell is None:
        return {"mean": NOTHING, "spread": "", "best": False}
    mean = number(column, cell, signed=line.source == "difference")
    mean += MASKED if cell.masked else ""
    return {"mean": mean.replace("-", "−"), "spread": deviation(column, cell), "best": cell.best}


def _width(columns: int) -> str:
    """The class of a table of so many columns, by which it is made to fit on paper."""
    return "most" if columns > 22 else "many" if columns > 12 else "few"


def _scalars(table: Table) -> dict[str, Any] | None:
    """Our scalars of every row, those that somebody has; the longer side of the table goes downwards."""
    ours = {row.label: next(line for line in row.lines if line.source == "ours") for row in table.rows}
    shown = [column for column in table.scalars if any(column in line.cells for line in ours.values())]
    if not shown:
        return None
    down = [(column_name(column), column, [_cell(line, column) for line in ours.values()]) for column in shown]
    if len(ours) > max(len(shown), _MOST_BESIDE):
        rows = [(label, "", [_cell(line, column) for column in shown]) for label, line in ours.items()]
        heads = [(name, code) for name, code, _ in down]
        return {"corner": "Row", "heads": heads, "lines": rows, "width": _width(1 + len(shown))}
    heads = [(label, "") for label in ours]
    return {"corner": "Number", "heads": heads, "lines": down, "width": _width(1 + len(ours))}


def _verdict(ours: Verdict, published: Verdict | None, second: Verdict | None) -> dict[str, Any]:
    return {
        "says": ours.claim.says,
        "source": ours.claim.source or "",
        "note": ours.claim.note,
        "sides": [
            {
                "whose": whose,
                "verdict": verdict.verdict,
                "kind": verdict.verdict.replace(" ", "-"),
                "sign": _SIGNS[verdict.verdict],
                "sentence": _sentence(verdict),
                "test": "" if verdict.test == "none" else verdict.test,
                "comparisons": [each.sentence() for each in verdict.comparisons]
                if len(verdict.comparisons) > 1
                else [],
                "folded": len(verdict.comparisons) >= _FOLDED_FROM,
            }
            for whose, verdict in (("Ours", ours), (SECOND, second), ("Published", published))
            if verdict is not None
        ],
    }


def _sentence(verdict: Verdict) -> str:
    told = verdict.sentence().removeprefix(verdict.verdict).lstrip(": ;")
    return told if told.endswith((".", "?")) else f"{told}."


def _noise(noise: TableNoise) -> dict[str, Any]:
    counts = sorted({column.n for column in noise.columns}), sorted({column.images for column in noise.columns})
    n, images = (f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}" for found in counts)
    return {
        "sentence": noise.sentence,
        "caption": f"Standard error of a comparison in points, with {n} seeds and {images} test images, and its parts.",
        "columns": [
            {
                "name": column_name(column.metric),
                "cells": [
                    f"{math.sqrt(variance):.2f}"
                    for variance in (column.parts.total, column.parts.seeds, column.parts.images, column.parts.both)
                ],
            }
            for column in noise.columns
        ],
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "source": answer.source,
        "says": answer.says,
        "on_worst": answer.on_worst,
        "verdicts": [
            {"verdict": verdict, "kind": verdict.replace(" ", "-"), "sign": _SIGNS[verdict]}
            for verdict in (answer.ours, answer.published)
            if verdict is not None
        ],
    }


def _figure(figure: Picture | Missing) -> dict[str, Any]:
    if isinstance(figure, Missing):
        return {"title": figure.title, "reason": figure.reason}
    return {
        "title": figure.title,
        "reason": "",
        "caption": figure.caption,
        "lines": figure.lines,
        "narrow": figure.narrow,
        "tall": figure.tall,
        "width": figure.printed,
        "source": f"data:image/png;base64,{base64.b64encode(figure.png).decode()}",
    }
