"""Figures that every table has without asking: published against ours, the verdicts, and how its trainings went."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablate.report.figures.columns import draw_columns
from ablate.report.figures.pictures import Picture, picture
from ablate.report.figures.style import COLOURS, STYLE, WIDTH_IN, grid_of, legend_below, line_look, new_figure, short
from ablate.report.names import with_minus
from ablate.report.results import Results, along_epochs
from ablate.report.tables import build_table, table_input
from ablate.report.verdicts.masking import SECOND, second_verdicts
from ablate.report.verdicts.verdicts import FAILS, HOLDS, Comparison, Verdict, verdicts_of
from ablate.spaces.figures import Drawing

_GREY = "0.45"
_VERDICT_COLOURS = {HOLDS: COLOURS[2], FAILS: COLOURS[1]}
_ON_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # no line crosses a heading
_LINE = 0.13  # by so much a second line of either's label moves two comparisons apart
_MOST_LINES = 12  # of learning curves; more are drawn in grey
PANELS = {  # curve -> its title
    "train/loss": "training loss",
    "train/accuracy_natural": "accuracy on training images, %",
    "train/accuracy_attack": "accuracy on attacked training images, %",
    "validation/natural": "accuracy on held-out images, %",
    "validation/attack": "accuracy on attacked held-out images, %",
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
            standing = re.split("[:;,(]", ours.standing)[0].strip()  # since when, or why not, stands on the page
            told = short(f"{number + 1}. {ours.claim.says}", 92 - len(standing))
            headings.append((y - 1.0, f"{told} · {standing}" if standing else told))
            before = 1
            for index, comparison in enumerate(ours.comparisons):
                if comparison.unit != unit:
                    continue
                words = textwrap.fill(with_minus(comparison.words), 40)
                lines = words.count("\n") + 1
                y += _LINE * (before + lines - 2)
                before = lines
                entries.append(_Entry(words, "ours", comparison, y))
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
    height = 0.6 + 0.45 * len(units) + 0.27 * sum(heights)
    figure = new_figure("Verdicts: effects, intervals, and where the claims say they lie", height)
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
                  fontweight="bold", in_layout=False, bbox=_ON_WHITE)  # fmt: skip
    named = [each for each in entries if each.words]
    axes.set_yticks([each.y for each in named], [each.words for each in named], fontsize=8)
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
    across, down = grid_of(len(panels), 3) if len(panels) < 5 else (3, math.ceil(len(panels) / 3))  # half a page
    figure = new_figure("Learning curves", 0.8 + 1.9 * down, WIDTH_IN)
    drawn = figure.subplots(down, across, squeeze=False)
    for axes in drawn.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (metric, found) in zip(drawn.flat, panels.items(), strict=False):
        for number, keys in enumerate(groups):
            _curve(axes, [found[key] for key in keys if key in found], *_line_style(number, len(groups)))
        axes.set_title(textwrap.fill(PANELS[metric], 34), fontsize=8.5)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    if len(groups) <= _MOST_LINES:
        names = [short(", ".join(labels)) for labels in groups.values()]
        lines = [
            matplotlib.lines.Line2D([], [], color=colour, linestyle=dash)
            for colour, dash in (_line_style(number, len(groups)) for number in range(len(groups)))
        ]
        figure.set_figheight(figure.get_figheight() + 0.18 * legend_below(figure, lines, names, 5))
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
