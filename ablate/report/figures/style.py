"""How figures look: colours that colour-blind readers tell apart, panels, and numbers in captions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from ablate.spaces.figures import RowData

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette: blue, vermilion, green, purple, orange, sky blue, black."""

DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 1)))
"""Beside the colours, so that lines are told apart in grey as well."""

SEQUENTIAL = "viridis"
DIVERGING = "RdBu_r"

WIDTH_IN = 9.0

PHONE_IN = 4.8
"""Width of a figure whose text is still about 10 pixels high on a phone's screen."""

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.titlesize": 11.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "image.interpolation": "nearest",
    "svg.hashsalt": "ablate",
    "text.parse_math": False,  # labels are the user’s words
}


def new_figure(title: str, height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """An empty figure with a title, that no window ever shows.

    Args:
        title: Above everything.
        height_in: In inches.
        width_in: In inches.

    Returns:
        The figure; its parts find their places by themselves.
    """
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    figure.suptitle(title)
    return figure


def line_look(number: int) -> tuple[str, Any]:
    """The colour and the dashes of a figure's n-th line, which no other of the first 49 has."""
    return COLOURS[number % len(COLOURS)], DASHES[(number // len(COLOURS) + number) % len(DASHES)]


def short(words: str, most: int = 40) -> str:
    """Words cut at a space, where they are longer than so many characters."""
    return textwrap.shorten(words, most, placeholder=" …")


def wrapped(words: str, width_in: float, size: float | None = None) -> str:
    """Words broken into lines that fit a width.

    Args:
        words: Longer ones than fit a line are broken too.
        width_in: In inches.
        size: Of the letters; None: a panel's title.

    Returns:
        The words, three lines at most.
    """
    letter = 0.61 * (size or STYLE["axes.titlesize"]) / 72  # the mean width of DejaVu Sans' letters, and a little more
    lines = textwrap.wrap(words, max(4, int(width_in / letter)), max_lines=3, placeholder=" …")
    return "\n".join(lines)


def legend_below(figure: Figure | SubFigure, lines: Sequence[Artist], names: Sequence[str], most: int) -> int:
    """A legend below everything, as many names beside each other as there is room for.

    Args:
        figure: Where.
        lines: What they look like.
        names: What they are called.
        most: So many beside each other at most.

    Returns:
        How many lines of names it has.
    """
    size = matplotlib.rcParams["font.size"]
    # A screen's letters stand a little further apart than the outlines that are measured here.
    widths = [1.04 * TextPath((0, 0), name or " ", size=size).get_extents().width for name in names]
    room = figure.bbox.width / figure.dpi * 72 / size - 2  # in letters' heights, as are the lines and what is between
    for across in range(min(most, len(names)), 0, -1):
        columns = np.array_split(widths, across)  # from top to bottom, as matplotlib fills them
        if sum(max(column) / size + 2.8 for column in columns) + 2.0 * (across - 1) <= room:
            break
    figure.legend(lines, names, loc="outside lower center", ncols=across, frameon=False)
    return math.ceil(len(names) / across)


def power_axes(axes: Axes, most_ticks: int | None = None) -> None:
    """Power on a vertical axis, logarithmic.

    Args:
        axes: The panel.
        most_ticks: On the vertical axis; None: as many as there is room for.
    """
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=most_ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("power, white noise = 1")


def grid_of(panels: int, across: int) -> tuple[int, int]:
    """How panels lie, with as few empty places as can be.

    Args:
        panels: How many.
        across: So many beside each other, one more or one less.

    Returns:
        (across, down).
    """
    wider = across + 1 if across > 3 else across
    choices = [panels] if panels <= across else [across, wider, max(2, across - 1)]
    best = min(choices, key=lambda each: (-panels % each, -each))
    return best, math.ceil(panels / best)


def bare(axes: Axes) -> None:
    """Takes the ticks and the frame off a panel that shows a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def framed(axes: Axes, left: float, top: float, width: float, height: float, *, dashes: str = "-") -> None:
    """A frame on a map of colours, with a dark rim: it must show on yellow as well."""
    rim = [withStroke(linewidth=2.2, foreground="black")]
    frame = Rectangle((left, top), width, height, fill=False, edgecolor="white", linestyle=dashes, path_effects=rim)
    axes.add_patch(frame)


def shared_colours(figure: Figure, axes: Sequence[Axes], label: str, low: float, high: float, colours: str) -> None:
    """One colour bar for several panels.

    Args:
        figure: Where.
        axes: The panels it is for.
        label: What the colours mean, with the unit.
        low: Value of the first colour.
        high: Value of the last colour.
        colours: Name of the colour map.
    """
    norm = matplotlib.colors.Normalize(low, high)
    mappable = matplotlib.cm.ScalarMappable(norm=norm, cmap=colours)
    figure.colorbar(mappable, ax=list(axes), label=label, fraction=0.05, pad=0.015, aspect=30)


def mosaic(kernels: NDArray[Any]) -> NDArray[Any]:
    """Kernels [rows, columns, kh, kw] as one picture [rows * (kh + 1) - 1, columns * (kw + 1) - 1], nan between two."""
    rows, columns, height, width = kernels.shape
    padded = np.full((rows, columns, height + 1, width + 1), np.nan)
    padded[:, :, :height, :width] = kernels
    return padded.transpose(0, 2, 1, 3).reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]


def mean_over(seeds: Iterable[RowData], name: str) -> NDArray[Any]:
    """The mean of an array over the seeds whose array has the shape of the first seed's."""
    arrays = [seen.arrays[name] for seen in seeds]
    return np.asarray(np.mean([array for array in arrays if array.shape == arrays[0].shape], axis=0))


def format_metric(seeds: Mapping[int, RowData], metric: str, digits: int = 2, percent: bool = False) -> str | None:
    """A metric of a row in words: its mean, and its spread where there are several seeds.

    Args:
        seeds: Of the row.
        metric: Its name.
        digits: After the point.
        percent: Whether to show a share of one in percent.

    Returns:
        E.g. `0.42 ± 0.03 (3 seeds)`, `71.4 %`; None where no seed has the metric.
    """
    values = [100.0 * seen.scalars[metric] if percent else seen.scalars[metric] for seen in seeds.values()
              if math.isfinite(seen.scalars.get(metric, math.nan))]  # fmt: skip
    if not values:
        return None
    unit = " %" if percent else ""
    text = f"{round(float(np.mean(values)), digits) + 0.0:.{digits}f}"  # never a negative zero
    if len(values) == 1:
        return text + unit
    return f"{text} ± {np.std(values, ddof=1):.{digits}f}{unit} ({len(values)} seeds)"


def listed(
    rows: Mapping[str, Mapping[int, RowData]], metric: str, what: str, digits: int = 2, percent: bool = False
) -> str:
    """A sentence with a metric of every row.

    Args:
        rows: Label -> seed -> what was seen.
        metric: Its name.
        what: What it is, before the numbers.
        digits: After the point.
        percent: Whether to show a share of one in percent.

    Returns:
        ` Smoothness: Natural 0.10; Adversarial 0.31.`, with a leading space; empty where no row has the metric.
    """
    found = {label: format_metric(seeds, metric, digits, percent) for label, seeds in rows.items()}
    words = "; ".join(f"{label} {number}" for label, number in found.items() if number is not None)
    return f" {what}: {words}." if words else ""
