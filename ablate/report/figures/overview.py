"""Figures that every table has without asking: published against ours, the verdicts, and how its trainings went."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from ablate.report.figures.pictures import Picture, picture
from ablate.report.figures.style import COLOURS, STYLE, WIDTH_IN, line_look, new_figure
from ablate.report.formats import MASKED
from ablate.report.results import Results, along_epochs
from ablate.report.tables import Cell, Source, Table, build_table, table_input
from ablate.report.verdicts.masked import SECOND, second_verdicts
from ablate.report.verdicts.verdicts import FAILS, HOLDS, Comparison, Verdict, verdicts_of
from ablate.spaces.figures import Drawing
from ablate.spaces.metrics import Metric, is_accuracy

_GREY = "0.45"
_ACROSS = 4  # panels beside each other
_ADAPTIVE: Source = "ours, adaptive"
_STYLES: Mapping[Source, tuple[str, str, str]] = {  # colour, marker, line
    "published": (_GREY, "D", "--"),
    "ours": (COLOURS[0], "o", "-"),
    _ADAPTIVE: (COLOURS[1], "s", "-."),
}
_OFFSETS: Mapping[Source, float] = {"published": -0.22, "ours": 0.0, _ADAPTIVE: 0.22}
_VERDICT_COLOURS = {HOLDS: COLOURS[2], FAILS: COLOURS[1]}
_MOST_LINES = 12  # of learning curves; more are drawn in grey
PANELS = {  # curve -> its title
    "train/loss": "training loss",
    "train/accuracy_natural": "accuracy on training images, %",
    "train/accuracy_attack": "the same under the training attack, %",
    "validation/natural": "accuracy on held-out images, %",
    "validation/attack": "the same under the training attack, %",
    "validation/robust": "accuracy on held-out images under PGD-7, %",
    "energy/ratio": "R = |LFI| / |HFI|",
}


def pictures(results: Results) -> dict[str, Picture]:
    """The figures of any table, as far as there is something to draw.

    Args:
        results: Of a plan, no search's.

    Returns:
        Name -> picture, in the order of a page.
    """
    given = table_input(results)
    verdicts = verdicts_of(results)
    second = second_verdicts(results, given.masked) if verdicts else {}
    found = {}
    with matplotlib.rc_context(STYLE):
        for name, title, drawing in (
            ("columns", "Accuracies and scalars", draw_columns(build_table(given), results)),
            ("verdicts", "Verdicts", draw_verdicts(verdicts, second)),
            ("training", "Learning curves", draw_training(results)),
        ):
            if drawing is not None:
                found[name] = picture(name, title, drawing)
    return found


def numbers_of(labels: Sequence[str]) -> list[float] | None:
    """Row labels as numbers, where all of them are different finite ones; None where they are words."""
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return None
    return numbers if len(set(numbers)) == len(numbers) > 1 and all(map(math.isfinite, numbers)) else None


def draw_columns(table: Table, results: Results) -> Drawing | None:
    """Published against ours: a panel for each column, a line where labels are numbers, else dots.

    Args:
        table: What the report prints.
        results: What it was made from, for the points of each seed.

    Returns:
        The drawing; None where nothing of ours has been measured.
    """
    ours = {column for row in table.rows for line in row.lines if line.source == "ours" for column in line.cells}
    columns = [column for column in table.columns if column in ours]
    if not columns:
        return None
    labels = [row.label for row in table.rows]
    numbers = numbers_of(labels)
    across, down = _grid(len(columns), _ACROSS)
    height = 1.9 if numbers else 0.75 + 0.3 * len(labels)
    figure = new_figure(table.title, 0.9 + down * height)
    panels = figure.subplots(down, across, squeeze=False, sharex=bool(numbers), sharey=not numbers)
    for axes in panels.flat[len(columns) :]:
        axes.set_visible(False)
    known: dict[Source, Any] = {}
    for place, (axes, column) in enumerate(zip(panels.flat, columns, strict=False)):
        axes.set_title(textwrap.fill(table.header(column) + (", %" if is_accuracy(column) else ""), 26))
        for source in _STYLES:
            cells = _cells(table, source, column)
            if cells:
                seeds = {label: _seeds(results, label, source, column) for label in cells}
                at = dict(zip(labels, numbers or range(len(labels)), strict=True))
                drawn = _series(axes, cells, seeds, at, source, upright=bool(numbers))
                known.setdefault(source, drawn)
        axes.grid(axis="y" if numbers else "both", color="0.92")
        axes.set_axisbelow(True)
        if numbers:
            _number_axis(axes, numbers, labels, place + across >= len(columns))
        else:
            axes.set_yticks(range(len(labels)), [textwrap.fill(label, 28) for label in labels])
            axes.set_ylim(len(labels) - 0.45, -0.55)
            axes.xaxis.set_major_locator(MaxNLocator(4))
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=len(known), frameon=False)
    return Drawing(figure, _columns_caption(table, results, known, bool(numbers)))


def _grid(panels: int, across: int) -> tuple[int, int]:
    """(across, down) for some panels, with as few empty places as can be."""
    wider = across + 1 if across > 3 else across
    choices = [panels] if panels <= across else [across, wider, max(2, across - 1)]
    best = min(choices, key=lambda each: (-panels % each, -each))
    return best, math.ceil(panels / best)


def _cells(table: Table, source: Source, column: str) -> dict[str, Cell]:
    lines = {row.label: line for row in table.rows for line in row.lines if line.source == source}
    return {label: line.cells[column] for label, line in lines.items() if column in line.cells}


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
    upright: bool,
) -> Any:
    """One source's numbers: above the numbers that name the rows, joined by a line, or beside rows with words."""
    colour, marker, line = _STYLES[source]
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


def _number_axis(axes: Axes, numbers: Sequence[float], labels: Sequence[str], lowest: bool) -> None:
    if min(numbers) > 0 and max(numbers) / min(numbers) >= 8:  # each step would be lost beside the last
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(numbers)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(list(numbers), list(labels))
    axes.tick_params(axis="x", labelbottom=lowest, labelsize=8, rotation=0 if len(numbers) < 7 else 45)


def _columns_caption(table: Table, results: Results, known: Mapping[Source, Any], line: bool) -> str:
    plan = results.planned
    told = ["Each point is a row" + (", over the number that names it." if line else ".")]
    deviations = [cell.deviation for row in table.rows for each in row.lines for cell in each.cells.values()]
    if any(each is not None for each in deviations):
        told.append("Ours: the mean of the seeds, which are the small dots, ± one standard deviation.")
    if "published" in known:
        told.append("Open: published.")
        if not results.is_paper_data:
            data = " and ".join(plan.data_labels)
            told.append(f"Ours are about {data}, not the paper's data: compare the shapes, not the heights.")
    if any(cell.masked for row in table.rows for each in row.lines for cell in each.cells.values()):
        told.append(f"{MASKED}: masked, a search without gradients leaves fewer images right.")
    return " ".join(told)


@dataclass(frozen=True)
class _Entry:
    """A line of the forest plot."""

    words: str
    whose: str
    comparison: Comparison
    y: float


def draw_verdicts(
    verdicts: Sequence[tuple[Verdict, Verdict | None]], second: Mapping[int, Verdict] | None = None
) -> Drawing | None:
    """A forest plot: each comparison's effect with its interval, and the region where its claim says that it lies.

    Args:
        verdicts: (ours, published) by claim.
        second: Number of a claim on a masked column -> its verdict on the worst of all attacks.

    Returns:
        The drawing; None where no comparison has an effect.
    """
    units: dict[str, tuple[list[_Entry], list[tuple[float, str]]]] = {}
    for number, (ours, published) in enumerate(verdicts):
        sides = [("ours", ours), ("second", (second or {}).get(number)), ("published", published)]
        for unit in dict.fromkeys(each.unit for each in ours.comparisons):
            entries, headings = units.setdefault(unit, ([], []))
            y = entries[-1].y + 2.2 if entries else 1.0
            standing = f"{ours.standing.split(':')[0].split(',')[0]}: " if ours.standing else ""
            headings.append((y - 1.0, textwrap.shorten(f"{number + 1}. {standing}{ours.claim.says}", 92)))
            for index, comparison in enumerate(ours.comparisons):
                if comparison.unit != unit:
                    continue
                entries.append(_Entry(comparison.words, "ours", comparison, y))
                for whose, verdict in sides[1:]:
                    if verdict is not None and index < len(verdict.comparisons):
                        y += 0.42
                        entries.append(_Entry("", whose, verdict.comparisons[index], y))
                y += 1.0
    units = {
        unit: found for unit, found in units.items() if any(math.isfinite(each.comparison.effect) for each in found[0])
    }
    if not units:
        return None
    heights = [entries[-1].y + 1.2 for entries, _ in units.values()]
    figure = new_figure("Verdicts: effects, intervals, and where the claims say they lie", 1.1 + 0.27 * sum(heights))
    panels = figure.subplots(len(units), 1, squeeze=False, height_ratios=heights)
    for axes, (unit, (entries, headings)) in zip(panels.flat, units.items(), strict=True):
        _forest(axes, unit, entries, headings)
    sides_drawn = {entry.whose for entries, _ in units.values() for entry in entries}
    _verdict_legend(figure, sides_drawn)
    caption = (
        "Each line is one comparison of a claim; bars are the intervals that decide, and the shaded region is where "
        "the claim says that the effect lies: a bar that lies in it holds, one that lies outside fails, any other is "
        "not enough evidence. A comparison without a bar has not been looked at yet."
    )
    if "second" in sides_drawn:
        caption += f" Squares: {SECOND[0].lower()}{SECOND[1:]}, since the claim's own column is masked."
    return Drawing(figure, caption)


def _forest(axes: Axes, unit: str, entries: Sequence[_Entry], headings: Sequence[tuple[float, str]]) -> None:
    ends = [end for each in entries for end in (each.comparison.low, each.comparison.high, each.comparison.effect)]
    bounds = [bound for each in entries for bound in each.comparison.region if math.isfinite(bound)]
    known = [end for end in [*ends, *bounds] if math.isfinite(end)]
    margin = 0.06 * (max(known) - min(known)) or 1.0
    left, right = min(known) - margin, max(known) + margin
    for each in entries:
        seen, ours = each.comparison, each.whose == "ours"
        colour = _VERDICT_COLOURS.get(seen.verdict, _GREY)
        if ours:
            low, high = max(seen.region[0], left), min(seen.region[1], right)
            if low < high:
                axes.barh(each.y, high - low, left=low, height=0.8, color=COLOURS[5], alpha=0.18, zorder=0)
        if math.isfinite(seen.low):
            axes.plot([seen.low, seen.high], [each.y] * 2, color=colour, linewidth=1.8 if ours else 1.1)
        if math.isfinite(seen.effect):
            marker = {"ours": "o", "second": "s", "published": "D"}[each.whose]
            face = "white" if each.whose == "published" else colour
            axes.plot(seen.effect, each.y, marker, color=colour, markersize=5 if ours else 4, markerfacecolor=face)
    axes.axvline(0.0, color="0.6", linewidth=0.8, zorder=0.5)
    for y, words in headings:
        axes.text(0.0, y, words, transform=axes.get_yaxis_transform(), fontsize=8, color="0.25", va="center",
                  fontweight="bold", in_layout=False)  # fmt: skip
    named = [each for each in entries if each.words]
    axes.set_yticks([each.y for each in named], [textwrap.fill(each.words, 40) for each in named], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(left, right)
    axes.set_ylim(entries[-1].y + 0.8, headings[0][0] - 0.6)
    axes.set_xlabel("points of accuracy" if unit == "points" else unit)


def _verdict_legend(figure: Figure, whose: set[str]) -> None:
    shown = {
        "holds": {"color": _VERDICT_COLOURS[HOLDS], "marker": "o"},
        "fails": {"color": _VERDICT_COLOURS[FAILS], "marker": "o"},
        "not enough evidence": {"color": _GREY, "marker": "o"},
    }
    if "published" in whose:
        shown["published table"] = {"color": _GREY, "marker": "D", "markerfacecolor": "white"}
    lines = [matplotlib.lines.Line2D([], [], markersize=5, **style) for style in shown.values()]  # type: ignore[arg-type]
    figure.legend(lines, list(shown), loc="outside lower center", ncols=len(shown), frameon=False)


def draw_training(results: Results) -> Drawing | None:
    """How the trainings went: loss, accuracies and R of every row by epoch; rows that share a training share a line.

    Args:
        results: Of a plan; trainings that are not finished are drawn as far as they are.

    Returns:
        The drawing; None where no epoch was logged.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    curves: dict[str, Mapping[str, Mapping[int, float]]] = {}
    for label in dict.fromkeys(row for row, _ in results.trials):
        trainings = [trial.part.training for (row, _), trial in sorted(results.trials.items()) if row == label]
        groups.setdefault(tuple(dict.fromkeys(trainings)), []).append(label)
    for trial in results.trials.values():
        curves.setdefault(trial.part.training, trial.curves)
    panels = {
        metric: found
        for metric in PANELS
        if any(found := {key: dict(curve[metric]) for key, curve in curves.items() if metric in curve})
    }
    if not panels:
        return None
    across, down = _grid(len(panels), 3)
    figure = new_figure("Learning curves", 0.8 + 2.1 * down + 0.18 * math.ceil(len(groups) / 4), WIDTH_IN)
    drawn = figure.subplots(down, across, squeeze=False)
    for axes in drawn.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (metric, found) in zip(drawn.flat, panels.items(), strict=False):
        for number, keys in enumerate(groups):
            _curve(axes, [found[key] for key in keys if key in found], *_line_style(number, len(groups)))
        axes.set_title(PANELS[metric], fontsize=8.5)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    if len(groups) <= _MOST_LINES:
        names = [textwrap.shorten(", ".join(labels), 40) for labels in groups.values()]
        lines = [
            matplotlib.lines.Line2D([], [], color=colour, linestyle=dash)
            for colour, dash in (_line_style(number, len(groups)) for number in range(len(groups)))
        ]
        figure.legend(lines, names, loc="outside lower center", ncols=min(5, len(names)), frameon=False)
    caption = "Every training after each epoch"
    several = any(len(trainings) > 1 for trainings in groups)
    caption += "; thick: the mean of the seeds, thin: each of them." if several else "."
    shared = [labels for labels in groups.values() if len(labels) > 1]
    caption += " Rows named together are measured on one network." if shared else ""
    return Drawing(figure, caption)


def _line_style(number: int, lines: int) -> tuple[str, Any]:
    if lines > _MOST_LINES:
        return "0.55", "-"
    return line_look(number)


def _curve(axes: Axes, seeds: Sequence[Mapping[int, float]], colour: str, dash: Any) -> None:
    if not seeds:
        return
    if len(seeds) > 1:
        for curve in seeds:
            axes.plot(list(curve), list(curve.values()), color=colour, linestyle=dash, linewidth=0.6, alpha=0.5)
    epochs, values = along_epochs(seeds)
    axes.plot(epochs, values.mean(axis=0), color=colour, linestyle=dash, linewidth=1.6)
