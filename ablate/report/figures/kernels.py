"""Figures of kernels: 3 (the first convolution), 4 (their spectra), 8 (the first quantized layer)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ablate.report.figures.style import (
    DIVERGING,
    SEQUENTIAL,
    WIDTH_IN,
    bare,
    listed,
    mosaic,
    new_figure,
    shared_colours,
    wrapped,
)
from ablate.spaces.figures import Drawing, FigureData, draws

MOST_KERNELS = 16
"""Filters, and input channels, that are drawn; wider layers are cut."""

FAT = "FAT"
"""What the label of a row with the frequency-aware transformation ends with."""

_LEAST_IN = 4.2  # so that the title fits above few filters
_CHANNELS = ("red", "green", "blue")
_MOST_ACROSS = 4


@draws("3")
def draw_first_kernels(data: FigureData) -> Drawing | None:
    """Figure 3: the first convolution's kernels, input channels downwards, filters across; a block for each row.

    Args:
        data: Rows with the arrays of the analysis `first_kernels`; of each the first seed is drawn.

    Returns:
        The drawing; None where no row has them.
    """
    rows = data.having("first_kernels/kernels")
    if not rows:
        return None
    shown = {label: next(iter(seeds.values())).arrays["first_kernels/kernels"] for label, seeds in rows.items()}
    filters = max(min(MOST_KERNELS, len(kernels)) for kernels in shown.values())
    heights = [kernels.shape[1] * kernels.shape[2] for kernels in shown.values()]
    width = max(_LEAST_IN, WIDTH_IN * filters / MOST_KERNELS)
    figure = new_figure("Figure 3 · Kernels of the first convolution", 0.9 + 1.85 * len(rows), width)
    panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (label, kernels) in zip(panels, shown.items(), strict=True):
        drawn = kernels[:MOST_KERNELS]
        _picture(axes, drawn.transpose(1, 0, 2, 3))
        channels, step = kernels.shape[1], kernels.shape[2] + 1
        names = _CHANNELS if channels == len(_CHANNELS) else tuple(str(n + 1) for n in range(channels))
        axes.set_yticks([(step - 2) / 2 + n * step for n in range(channels)], names)
        axes.set_xticks([(step - 2) / 2 + n * step for n in range(len(drawn))], [str(n + 1) for n in range(len(drawn))])
        axes.set_xlim(-0.5, filters * step - 1.5)
        axes.tick_params(length=0)
        axes.set_title(wrapped(label, width - 0.8), loc="left")
    panels[-1].set_xlabel("filter")
    _weight_colours(figure, list(panels))
    caption = (
        f"The {'×'.join(map(str, next(iter(shown.values())).shape[2:]))} kernels of the first convolution, one column "
        "for each filter, one line for each input channel; red is positive, blue negative. Look down a column: in like "
        "channels the colours repeat. Look inside a kernel: in a smooth one they do not jump."
    )
    caption += listed(rows, "first_kernels/channel_similarity", "Similarity across the channels (1: alike)")
    caption += listed(rows, "first_kernels/smoothness", "Smoothness (1: constant, 0: white noise)")
    return Drawing(figure, caption + _first_seed(data))


@draws("4")
def draw_kernel_spectra(data: FigureData) -> Drawing | None:
    """Figure 4: amplitudes of each layer group's first convolution, filters downwards; a line of panels for each row.

    Args:
        data: Rows with the arrays of the analysis `kernel_spectra`; of each the first seed is drawn.

    Returns:
        The drawing; None where no row has them.
    """
    rows = data.having("kernel_spectra/layers")
    if not rows:
        return None
    first = {label: next(iter(seeds.values())).arrays for label, seeds in rows.items()}
    groups = max(len(arrays["kernel_spectra/layers"]) for arrays in first.values())
    figure = new_figure("Figure 4 · Spectra of the kernels", 1.3 + 1.45 * len(rows))
    panels = figure.subplots(len(rows), groups, squeeze=False)
    named: dict[int, str] = {}
    for number, (label, arrays) in enumerate(first.items()):
        for group, axes in enumerate(panels[number]):
            if f"kernel_spectra/group{group}" not in arrays:
                axes.set_visible(False)
                continue
            amplitude = arrays[f"kernel_spectra/group{group}"]
            largest = float(amplitude.max()) or 1.0
            axes.imshow(
                amplitude / largest, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto", extent=(0, 1, len(amplitude), 0)
            )
            axes.set_xticks(
                [0, 0.25, 0.5, 0.75, 1],
                ["0, low", "", "½, high", "", "1, low"] if number == len(rows) - 1 else [],
                fontsize=8,
            )
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            layer = wrapped(str(arrays["kernel_spectra/layers"][group]), (WIDTH_IN - 1.5) / groups)
            name = f"{layer}\n{len(amplitude)} filters"
            if named.get(group) != name:  # the same as above is not repeated
                axes.set_title(name)
            named[group] = name
        panels[number, 0].set_ylabel(wrapped(label, 1.2))
    figure.supxlabel("frequency, cycles per entry of the flattened filter", fontsize=9)
    shared_colours(figure, list(panels.flat), "amplitude, relative to each map's largest", 0, 1, SEQUENTIAL)
    caption = (
        "Amplitudes of the discrete Fourier transform of the filters, flattened over input channels, height and width, "
        "of the first convolution and of the first one of each layer group; one line for each filter, at most 64. Low "
        "frequencies lie at both ends, high ones in the middle: compare how bright the middle is."
    )
    for group in range(groups):
        metric = f"kernel_spectra/high_frequency_share_group{group}"
        what = (
            f"Share of the energy in the upper half of the frequencies, map {group + 1}"
            if group == 0
            else f"Map {group + 1}"
        )
        caption += listed(rows, metric, what, 1, True)
    return Drawing(figure, caption + _first_seed(data))


@draws("8")
def draw_quantized_kernels(data: FigureData) -> Drawing | None:
    """Figure 8: the first quantized layer's kernels, networks without FAT above the same ones with it.

    A row belongs below another where its label is the other's and `FAT`; where no labels are such, rows follow each
    other as in the table.

    Args:
        data: Rows with the arrays of the analysis `quantized_kernels`; of each the first seed is drawn.

    Returns:
        The drawing; None where no row has them.
    """
    rows = data.having("quantized_kernels/kernels")
    if not rows:
        return None
    grid = _with_and_without(list(rows))
    across = max(len(line) for line in grid)
    side = (WIDTH_IN - 0.9) / max(across, 3)
    figure = new_figure(
        "Figure 8 · Kernels of the first quantized layer", 0.6 + len(grid) * (side + 0.3), 0.9 + across * side
    )
    panels = figure.subplots(len(grid), across, squeeze=False)
    for line, labels in zip(panels, grid, strict=True):
        for axes, label in zip(line, [*labels, *[None] * (across - len(labels))], strict=True):
            if label is None:
                axes.set_visible(False)
                continue
            kernels = next(iter(rows[label].values())).arrays["quantized_kernels/kernels"]
            _picture(axes, kernels[:MOST_KERNELS, :MOST_KERNELS])
            levels = len(np.unique(kernels))
            title = wrapped(label, side, 8.5) + (f"\n{levels} levels" if levels <= 256 else "\n ")
            axes.set_title(title, fontsize=8.5)
    _weight_colours(figure, [axes for axes in panels.flat if axes.get_visible()])
    caption = (
        "The weights that the first quantized layer uses (the second convolution of the network; the first is not "
        "quantized): one line for each filter, one column for each input channel, at most 16; red is positive, blue "
        "negative. Kernels that FAT smooths show fewer jumps of colour inside."
    )
    caption += listed(rows, "quantized_kernels/smoothness", "Smoothness (1: constant, 0: white noise)")
    return Drawing(figure, caption + _first_seed(data))


def _with_and_without(labels: list[str]) -> list[list[str | None]]:
    partners = {label.removesuffix(FAT).rstrip(" +"): label for label in labels if label.endswith(FAT)}
    without = [label for label in labels if label not in partners.values()]
    if not any(label in partners for label in without):
        return [list(labels[start : start + _MOST_ACROSS]) for start in range(0, len(labels), _MOST_ACROSS)]
    alone = [label for base, label in partners.items() if base not in without]
    above: list[str | None] = [*without, *[None] * len(alone)]
    below: list[str | None] = [*[partners.get(label) for label in without], *alone]
    chunks = range(math.ceil(len(above) / _MOST_ACROSS))
    return [line[n * _MOST_ACROSS : (n + 1) * _MOST_ACROSS] for n in chunks for line in (above, below)]


def _picture(axes: Axes, kernels: NDArray[Any]) -> None:
    largest = float(np.abs(kernels).max()) or 1.0
    axes.imshow(mosaic(kernels / largest), cmap=DIVERGING, vmin=-1, vmax=1)
    bare(axes)
    axes.set_facecolor("0.87")  # between the kernels: white would be taken for weights of zero


def _weight_colours(figure: Any, panels: list[Axes]) -> None:
    shared_colours(figure, panels, "weight, relative to the largest", -1, 1, DIVERGING)


def _first_seed(data: FigureData) -> str:
    several = any(len(seeds) > 1 for seeds in data.rows.values())
    return " Drawn is the first seed of each row." if several else ""
