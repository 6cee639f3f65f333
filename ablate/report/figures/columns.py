"""The figure of a table's columns, published against ours: lines over numbers that name rows, dots beside words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from ablate.report.figures.series import Axis, Series, arrange, settings_of
from ablate.report.figures.style import COLOURS, WIDTH_IN, grid_of, legend_below, new_figure, wrapped
from ablate.report.formats import MASKED
from ablate.report.results import Results
from ablate.report.tables import Cell, Source, Table
from ablate.spaces.figures import Drawing
from ablate.spaces.metrics import Metric, is_accuracy

_ACROSS = 4  # panels beside each other
_ADAPTIVE: Source = "ours, adaptive"
_STYLES: Mapping[Source, tuple[str, str, str]] = {  # colour, marker, line
    "published": ("0.45", "D", "--"),
    "ours": (COLOURS[0], "o", "-"),
    _ADAPTIVE: (COLOURS[1], "s", "-."),
}
_FURTHER = COLOURS[2:]
"""Colours of the second line over a setting and of those after it."""

_OFFSETS: Mapping[Source, float] = {"published": -0.22, "ours": 0.0, _ADAPTIVE: 0.22}
_Lines = Mapping[tuple[str, Source], Mapping[str, Cell]]
_LEAST_APART = 0.085  # of a panel's width, between two labels


@dataclass(frozen=True)
class _Block:
    """Panels of one kind of rows.

    Attributes:
        axis: What their lines lie over; None of rows that are words.
        series: One for each line; of words one alone, at their places.
        columns: A panel each.
    """

    axis: Axis | None
    series: tuple[Series, ...]
    columns: tuple[str, ...]

    @property
    def grid(self) -> tuple[int, int]:
        return grid_of(len(self.columns), _ACROSS)

    @property
    def height(self) -> float:
        rows = len(self.series[0].at)
        return 0.35 + self.grid[1] * (1.9 if self.axis is not None else 0.75 + 0.3 * rows)


def draw_columns(table: Table, results: Results) -> Drawing | None:
    """Published against ours, a panel for each column; rows that are words have panels apart from those on lines.

    Args:
        table: What the report prints.
        results: What it was made from, for settings and for the points of each seed.

    Returns:
        The drawing; None where nothing of ours has been measured.
    """
    axes, words = arrange([row.label for row in table.rows], settings_of(results))
    lines = {(row.label, line.source): line.cells for row in table.rows for line in row.lines}
    found = [_block(table, lines, axis, axis.series) for axis in axes]
    found.append(_block(table, lines, None, (Series("", {label: float(place) for place, label in enumerate(words)}),)))
    blocks = [block for block in found if block is not None]
    if not blocks:
        return None
    figure = new_figure(table.title, 0.55 + sum(block.height for block in blocks))
    parts: Sequence[Figure | SubFigure] = [figure]
    if len(blocks) > 1:
        parts = figure.subfigures(len(blocks), 1, height_ratios=[block.height for block in blocks]).tolist()  # type: ignore[union-attr]
    sources: set[Source] = set()
    for part, block in zip(parts, blocks, strict=True):
        sources |= _draw(part, block, table, lines, results)
    return Drawing(figure, _caption(table, results, sources, [block.axis is not None for block in blocks]))


def _block(table: Table, lines: _Lines, axis: Axis | None, series: Sequence[Series]) -> _Block | None:
    ours = {column for line in series for label in line.at for column in lines.get((label, "ours"), {})}
    columns = tuple(column for column in table.columns if column in ours)
    return _Block(axis, tuple(series), columns) if columns else None


def _draw(part: Figure | SubFigure, block: _Block, table: Table, lines: _Lines, results: Results) -> set[Source]:
    """Draw a block into its part of the figure; whose numbers it shows."""
    across, down = block.grid
    upright = block.axis is not None
    panels = part.subplots(down, across, squeeze=False, sharex=upright, sharey=not upright)
    names = [] if upright else [textwrap.fill(label, 28) for label in block.series[0].at]
    beside = 0.07 * max((len(line) for name in names for line in name.split("\n")), default=0)  # inches of names
    room = (WIDTH_IN - beside) / across - 0.1
    for axes in panels.flat[len(block.columns) :]:
        axes.set_visible(False)
    known: dict[tuple[str, Source], Any] = {}
    for place, (axes, column) in enumerate(zip(panels.flat, block.columns, strict=False)):
        axes.set_title(wrapped(table.header(column) + (", %" if is_accuracy(column) else ""), room))
        for number, series in enumerate(block.series):
            for source in _STYLES:
                of_source = {label: lines.get((label, source), {}) for label in series.at}
                cells = {label: of_row[column] for label, of_row in of_source.items() if column in of_row}
                if cells:
                    seeds = {label: _seeds(results, label, source, column) for label in cells}
                    drawn = _series(axes, cells, seeds, series.at, source, number, upright=upright)
                    known.setdefault((series.name, source), drawn)
        axes.grid(axis="y" if upright else "both", color="0.92")
        axes.set_axisbelow(True)
        if block.axis is not None:
            _number_axis(axes, block.axis, lowest=place + across >= len(block.columns))
        else:
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.45, -0.55)
            axes.xaxis.set_major_locator(MaxNLocator(4 if across < 4 else 3))
            axes.tick_params(axis="x", labelsize=8)
    shown = [(series.name, source) for series in block.series for source in _STYLES if (series.name, source) in known]
    entries = [f"{name}, {source}" if name else source for name, source in shown]
    legend_below(part, [known[each] for each in shown], entries, 4)
    return {source for _, source in known}


def _seeds(results: Results, row: str, source: Source, column: str) -> list[float]:
    if source == "published":
        return []
    values = results.values(row, Metric(column, adaptive=source == _ADAPTIVE).name)
    return values if len(values) > 1 else []


def _series(
    axes: Axes,
    cells: Mapping[str, Cell],
    seeds: Mapping[str, Sequence[float]],
    at: Mapping[str, float],
    source: Source,
    number: int,
    *,
    upright: bool,
) -> Any:
    """One source's numbers: above the numbers that name the rows, joined by a line, or beside rows with words."""
    colour, marker, line = _STYLES[source]
    if number:
        colour = _FURTHER[(number - 1) % len(_FURTHER)]
    order = sorted(cells, key=at.__getitem__)
    places = [at[label] if upright else at[label] + _OFFSETS[source] for label in order]
    means = [cells[label].value for label in order]
    bars = [cells[label].deviation or 0.0 for label in order]

    def turned(along: Sequence[float], values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
        return (along, values) if upright else (values, along)

    drawn = axes.errorbar(*turned(places, means), xerr=None if upright else bars, yerr=bars if upright else None,
                          color=colour, marker=marker, linestyle=line if upright else "", markersize=4.5, linewidth=1.4,
                          elinewidth=1.0, markerfacecolor="white" if source == "published" else colour)  # fmt: skip
    for label, place in zip(order, places, strict=True):
        of_row = seeds[label]
        axes.plot(*turned([place] * len(of_row), of_row), ".", color=colour, alpha=0.45, markersize=4)
        if cells[label].masked:
            [[x], [y]] = turned([place], [cells[label].value])
            axes.annotate(MASKED, (x, y), (3, 3 if upright else 1), textcoords="offset points")
    return drawn


def _number_axis(axes: Axes, axis: Axis, *, lowest: bool) -> None:
    ticks = axis.ticks
    low, high = min(ticks), max(ticks)
    logarithmic = low > 0 and high / low >= 8  # each step would be lost beside the last
    if logarithmic:
        axes.set_xscale("log", base=2)
    places = [math.log(each) if logarithmic else each for each in ticks]
    shown, span = [places[0]], places[-1] - places[0]
    for place in places[1:-1]:
        if min(place - shown[-1], places[-1] - place) >= _LEAST_APART * span:
            shown.append(place)
    shown.append(places[-1])
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(
        list(ticks), [text if place in shown else "" for place, text in zip(places, ticks.values(), strict=True)]
    )
    crowded = sum(len(text) + 1 for text in ticks.values()) > 22
    axes.tick_params(axis="x", labelbottom=lowest, labelsize=8, rotation=45 if crowded else 0)
    if lowest:
        axes.set_xlabel(axis.words, fontsize=8)


def _caption(table: Table, results: Results, sources: set[Source], upright: Sequence[bool]) -> str:
    plan = results.planned
    told = ["Each point is a row."]
    if all(upright):
        told = ["Each point is a row, over the number that names it."]
    elif any(upright):
        told = ["Each point is a row, over the number that names it, or beside its name below."]
    deviations = [cell.deviation for row in table.rows for each in row.lines for cell in each.cells.values()]
    if any(each is not None for each in deviations):
        told.append("Ours: the mean of the seeds, which are the small dots, ± one standard deviation.")
    if "published" in sources:
        told.append("Open: published.")
        if not results.is_paper_data:
            data = " and ".join(plan.data_labels)
            told.append(f"Ours are about {data}, not the paper's data: compare the shapes, not the heights.")
    if any(cell.masked for row in table.rows for each in row.lines for cell in each.cells.values()):
        told.append(f"{MASKED}: masked, a search without gradients leaves fewer images right.")
    return " ".join(told)
