"""Figures of inputs and activations: 2 (spectra), 5 (R by epoch), 6 and 7 (similarity of layers)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ablate.core import text
from ablate.report.figures.style import (
    COLOURS,
    SEQUENTIAL,
    WIDTH_IN,
    legend_below,
    line_look,
    listed,
    mean_over,
    new_figure,
    power_axes,
    shared_colours,
    short,
    wrapped,
)
from ablate.report.results import along_epochs
from ablate.spaces.figures import Drawing, FigureData, RowData, draws

_PANELS = {"clean": "Clean", "adversarial": "PGD-20", "difference": "PGD-20 − clean"}
_INSET = 0.02
_MOST_ACROSS = 4  # similarity matrices beside each other


@draws("2")
def draw_spectra(data: FigureData) -> Drawing | None:
    """Figure 2: for each row the spectra of clean images, PGD-20 examples and their difference, and its profile.

    Args:
        data: Rows with the arrays of the analysis `spectrum`.

    Returns:
        The drawing; None where no row has them.
    """
    rows = data.having(*(f"spectrum/{name}" for name in (*_PANELS, "profile")))
    if not rows:
        return None
    figure = new_figure("Figure 2 · Where the perturbation’s energy lies", 0.5 + 2.35 * len(rows))
    panels = figure.subplots(len(rows), 4, squeeze=False, width_ratios=(1, 1, 1, 1.15))
    for number, ((label, seeds), line) in enumerate(zip(rows.items(), panels, strict=True)):
        for axes, (name, title) in zip(line[:3], _PANELS.items(), strict=True):
            spectrum = mean_over(seeds.values(), f"spectrum/{name}")
            size = spectrum.shape[0]
            edge = -size / 2 - 0.5
            axes.imshow(spectrum, cmap=SEQUENTIAL, vmin=0, vmax=1, extent=(edge, edge + size, edge + size, edge))
            axes.add_patch(_dashed(-(size // 4) - 0.5, size // 2))
            axes.set_xticks([-(size // 2), 0, size // 2 - 1], [f"−{size // 2}", "0", f"{size // 2 - 1}"])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if number == 0:
                axes.set_title(title)
            if number == len(rows) - 1:
                axes.set_xlabel("cycles per image")
        line[0].set_ylabel(wrapped(label, 2.0, 10), fontsize=10)
        profile = mean_over(seeds.values(), "spectrum/profile")
        shown = slice(0, size // 2 + 1)  # beyond it the circles leave the square
        line[3].plot(np.arange(len(profile))[shown], profile[shown], color=COLOURS[0])
        line[3].axhline(1.0, color="0.35", linestyle=":", linewidth=1)
        line[3].text(
            0.98, 1.06, "white noise", fontsize=8, color="0.35", ha="right", transform=line[3].get_yaxis_transform()
        )
        power_axes(line[3])
        if number == 0:
            line[3].set_title("PGD-20 − clean, by distance")
        if number == len(rows) - 1:
            line[3].set_xlabel("distance, cycles per image")
    shared_colours(figure, list(panels[:, :3].flat), "log-amplitude, 0 to 1 in each panel", 0, 1, SEQUENTIAL)
    caption = (
        "Mean log-amplitude spectra of test images, low frequencies in the middle; brighter is more. Compare the "
        "left and middle panels with the right one, which is what PGD-20 adds. The dashed square holds the "
        "lower half of the frequencies in each direction, and a quarter of the energy of white noise."
    )
    share = listed(rows, "spectrum/central_energy_share", "Share of the perturbation's energy inside it", 1, True)
    return Drawing(figure, caption + share)


@draws("5")
def draw_ratio(data: FigureData) -> Drawing | None:
    """Figure 5: R = LFI/HFI of the first activation at each epoch, mean and spread over the seeds.

    Args:
        data: Rows whose trainings logged `energy/ratio`.

    Returns:
        The drawing; None where no row has it.
    """
    figure = new_figure("Figure 5 · Low over high frequencies in the first activation", 3.6, 7.0)
    lines, spread = _by_epoch(figure, data, "energy/ratio", "R = |LFI| / |HFI|")
    if not lines:
        return None
    told = [f"{each.label} from {each.mean[0]:.2f} to {each.mean[-1]:.2f} in epoch {each.epochs[-1]}" for each in lines]
    caption = (
        "R = |LFI| / |HFI| of hardtanh(bn1(conv1(x))) on the first 512 training images after each epoch; epoch 0 is "
        "the untrained network. The higher the line, the more the first layer looks at the constant part of a channel."
    )
    return Drawing(figure, f"{caption}{spread} R goes: {'; '.join(told)}.")


@draws("overfitting")
def draw_overfitting(data: FigureData) -> Drawing | None:
    """Figure overfitting: robust accuracy on held-out images at each epoch, mean and spread over the seeds.

    Args:
        data: Rows whose trainings logged `validation/robust`.

    Returns:
        The drawing; None where no row has it.
    """
    figure = new_figure("Robust accuracy on held-out images", 3.6, 7.0)
    lines, spread = _by_epoch(figure, data, "validation/robust", "accuracy under PGD-7, %")
    if not lines:
        return None
    told = []
    for each in lines:
        best = int(each.mean[each.first :].argmax()) + each.first
        told.append(f"{each.label} {each.mean[best] - each.mean[-1]:.2f} (epoch {each.epochs[best]})")
    caption = (
        "Accuracy under PGD-7 of 8/255 on the images held out of training, after each epoch; epoch 0 is the untrained "
        "network. A line that falls at its end is robust overfitting: its row is worse for having been trained on."
    )
    return Drawing(
        figure, f"{caption}{spread} Points that the best epoch would gain over the last one: {'; '.join(told)}."
    )


@dataclass(frozen=True)
class _Line:
    """A row's mean over its seeds by epoch, and that of all rows with the very same curves."""

    label: str
    epochs: list[int]
    mean: NDArray[np.float64]

    @property
    def first(self) -> int:
        """The place of the first epoch that was trained."""
        return 1 if self.epochs[0] == 0 and len(self.epochs) > 1 else 0


def _by_epoch(figure: Figure, data: FigureData, metric: str, words: str) -> tuple[list[_Line], str]:
    """Draw a curve of each row, one of those that share it; what was drawn, and what the caption says of the bands."""
    rows: dict[str, list[str]] = {}
    of: dict[str, Mapping[int, RowData]] = dict(data.having(metric))
    for label, seeds in of.items():
        first = next((row for row in rows if _curves(of[row], metric) == _curves(seeds, metric)), label)
        rows.setdefault(first, []).append(label)
    axes = figure.subplots()
    lines: list[_Line] = []
    spread = False
    for number, (label, labels) in enumerate(rows.items()):
        curves = _curves(of[label], metric)
        epochs, values = along_epochs(curves)
        if not epochs:
            continue
        mean = values.mean(axis=0)
        colour, dash = line_look(number)
        name = short(", ".join(labels))
        name += f" ({len(curves)} seeds)" if len(curves) > 1 else ""
        axes.plot(epochs, mean, color=colour, linestyle=dash, label=name, linewidth=1.8)
        if len(curves) > 1:
            spread = True
            deviation = values.std(axis=0, ddof=1)
            axes.fill_between(epochs, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
        lines.append(_Line(text.listed(labels, 1), epochs, mean))
    axes.set_xlabel("epoch")
    axes.set_ylabel(words)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    if lines:
        legend_below(figure, *axes.get_legend_handles_labels(), 3)
    return lines, " Bands: ± one standard deviation over the seeds." if spread else ""


def _curves(seeds: Mapping[int, RowData], metric: str) -> list[Mapping[int, float]]:
    return [seen.curves[metric] for seen in seeds.values()]


@draws("6")
def draw_similarity(data: FigureData) -> Drawing | None:
    """Figure 6: linear CKA between all layers, a matrix for each row.

    Args:
        data: Rows with the arrays of the analysis `cka`.

    Returns:
        The drawing; None where no row has them.
    """
    return _similarity(data, "Figure 6 · Similarity of the layers under attack")


@draws("7")
def draw_similarity_by_architecture(data: FigureData) -> Drawing | None:
    """Figure 7: the same for networks of different depths.

    Args:
        data: Rows with the arrays of the analysis `cka`.

    Returns:
        The drawing; None where no row has them.
    """
    return _similarity(data, "Figure 7 · Similarity of the layers, by architecture")


def _similarity(data: FigureData, title: str) -> Drawing | None:
    rows = data.having("cka/matrix")
    if not rows:
        return None
    across = min(_MOST_ACROSS, len(rows))
    down = math.ceil(len(rows) / across)
    side = (WIDTH_IN - 1.0) / max(across, 2.6)
    figure = new_figure(title, 0.7 + down * (side + 0.35), 1.2 + across * side)
    panels = figure.subplots(down, across, squeeze=False)
    for axes in panels.flat[len(rows) :]:
        axes.set_visible(False)
    for number, (label, seeds) in enumerate(rows.items()):
        axes = panels.flat[number]
        matrix = mean_over(seeds.values(), "cka/matrix")
        layers = len(matrix)
        axes.imshow(matrix, cmap=SEQUENTIAL, vmin=0, vmax=1, origin="lower", extent=(0.5, layers + 0.5) * 2)
        third = layers // 3
        if third:
            axes.add_patch(_dashed(layers - third + 0.5, third, 0.5))
        axes.set_title(wrapped(label, side))
        ticks = [
            1,
            *range(max(5, round(layers / 25) * 5), layers - layers // 10, max(5, round(layers / 25) * 5)),
            layers,
        ]
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
        axes.set_xlabel("layer")
        if number % across == 0:
            axes.set_ylabel("layer")
    shared_colours(figure, list(panels.flat[: len(rows)]), "linear CKA", 0, 1, SEQUENTIAL)
    caption = (
        "Linear CKA between the outputs of all convolution and linear layers on PGD-20 examples, in the order in which "
        "they run; 1 is the same representation up to rotation and scale. The dashed rectangle compares the first "
        "third of the layers with the last: the brighter it is, the more alike shallow and deep layers are."
    )
    return Drawing(figure, caption + listed(rows, "cka/shallow_deep", "Its mean"))


def _dashed(x: float, size: float, y: float | None = None) -> Rectangle:
    # A little inside, and with a dark rim: it must show on yellow, and on the edge of a panel.
    corner, side = (x + _INSET * size, (x if y is None else y) + _INSET * size), size * (1 - 2 * _INSET)
    rim = [withStroke(linewidth=2.6, foreground="black")]
    return Rectangle(corner, side, side, fill=False, edgecolor="white", linestyle="--", linewidth=1.2, path_effects=rim)
