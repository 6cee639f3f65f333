"""Figures of what networks see at which frequency: the loss gradient's spectrum, and the perturbation's by epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ablate.report.figures.style import (
    COLOURS,
    DASHES,
    PHONE_IN,
    SEQUENTIAL,
    framed,
    legend_below,
    line_look,
    listed,
    mean_over,
    new_figure,
    power_axes,
    shared_colours,
)
from ablate.report.results import along_epochs
from ablate.spaces.figures import Drawing, FigureData, RowData, draws
from ablate.spaces.metrics import transfer_column

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_AXIS = "distance from the zero frequency, cycles per image"


def _power_axes(axes: Axes) -> None:
    power_axes(axes, most_ticks=8)
    axes.axhline(1.0, color="0.35", linestyle=":", linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _within(profile: NDArray[np.floating]) -> slice:
    """Of a radial profile what is drawn: beyond half the image's size the circles leave the square of frequencies."""
    half = round((len(profile) - 1) / np.sqrt(2))
    return slice(0, half + 1)


@draws("gradient_spectrum")
def draw_gradient_spectrum(data: FigureData) -> Drawing | None:
    """Figure gradient_spectrum: the loss gradient's radial profile, on clean images and on PGD-20 examples.

    Args:
        data: Rows with the arrays of the analysis `gradient_spectrum`.

    Returns:
        The drawing; None where no row has them.
    """
    panels = {"clean": "On clean images", "adversarial": "On PGD-20 examples"}
    rows = _of_networks(data.having(*(f"gradient_spectrum/{name}" for name in panels)))
    if not rows:
        return None
    figure = new_figure("Where the loss gradient’s energy lies", 5.4 + 0.22 * len(rows) / 2, PHONE_IN)
    both = figure.subplots(2, 1, sharex=True, sharey=True)
    for axes, (name, title) in zip(both, panels.items(), strict=True):
        for number, (label, seeds) in enumerate(rows.items()):
            profile = mean_over(seeds.values(), f"gradient_spectrum/{name}")
            shown = _within(profile)
            axes.plot(np.arange(len(profile))[shown], profile[shown], label=label, linewidth=1.8, **_look(number))
        _power_axes(axes)
        axes.set_title(title)
    both[1].set_xlabel(_AXIS)
    lines, names_of = both[0].get_legend_handles_labels()
    legend_below(figure, lines, names_of, 2)
    caption = (
        "Power of the loss gradient by frequency, mean over test images whose gradients are scaled to unit length; the "
        "dotted line is white noise. A line that is high on the left and falls is a network whose answer hangs on low "
        "frequencies; a flat one listens to all alike."
    )
    mean = listed(rows, "gradient_spectrum/mean_frequency", "Mean frequency on clean images, cycles per image", 1)
    return Drawing(figure, caption + mean)


@draws("corruptions")
def draw_corruptions(data: FigureData) -> Drawing | None:
    """Figure corruptions: accuracy under each corruption over its own centre frequency, every row's.

    Args:
        data: Rows with the arrays of the analysis `corruptions`.

    Returns:
        The drawing; None where no row has them.
    """
    arrays = ("names", "accuracy", "frequency", "source")
    rows = _of_networks(data.having(*(f"corruptions/{name}" for name in arrays)))
    if not rows:
        return None
    first = next(iter(next(iter(rows.values())).values())).arrays
    names = [str(name) for name in first["corruptions/names"]]
    shown = [name.replace("_", " ") for name in names]
    source = str(first["corruptions/source"])
    frequency = first["corruptions/frequency"].mean(axis=1)
    order = np.argsort(frequency)
    figure = new_figure("Accuracy under corruptions, by their frequency", 3.4 + 0.24 * len(names), PHONE_IN)
    above, below = figure.subplots(2, 1, height_ratios=[2.6, 0.24 * len(names)])
    told = []
    for number, (label, seeds) in enumerate(rows.items()):
        alike = [seen for seen in seeds.values() if list(seen.arrays["corruptions/names"]) == names]
        if not alike:
            continue
        accuracy = mean_over(alike, "corruptions/accuracy").mean(axis=1)
        look = _look(number)
        # Below there are no dashes: colour and marker together are no other row's.
        mark = _MARKERS[(number // len(COLOURS) + number) % len(_MARKERS)]
        above.plot(frequency[order], accuracy[order], marker=mark, label=label, linewidth=1.2, markersize=5, **look)
        below.plot(accuracy[order], np.arange(len(names)), mark, color=look["color"], markersize=5)
        told.append(f"{label} {accuracy[order[0]]:.0f} and {accuracy[order[-1]]:.0f} %")
    above.set_xlabel("centre of what the corruption changes, cycles per image")
    above.set_ylabel("accuracy, %")
    above.grid(axis="y", color="0.9")
    below.set_yticks(np.arange(len(names)), [shown[place] for place in order])
    below.set_ylim(len(names) - 0.5, -0.5)
    below.grid(axis="both", color="0.9")
    below.set_xlabel("accuracy, %; from the lowest frequency (top) to the highest")
    lines, names_of = above.get_legend_handles_labels()
    legend_below(figure, lines, names_of, 2)
    caption = (
        f"Accuracy on corrupted test images ({source}), mean over five severities, over the mean frequency of what "
        "each corruption changes. A line that is higher on the right is a network that withstands what lies at high "
        f"frequencies. Under {shown[order[0]]}, the lowest, and {shown[order[-1]]}, the highest: {'; '.join(told)}."
    )
    return Drawing(figure, caption)


@draws("transfer")
def draw_transfer(data: FigureData) -> Drawing | None:
    """Figure transfer: accuracy of each row's network on the PGD-20 examples of others'.

    Args:
        data: Rows measured with `measurement.transfer_from`.

    Returns:
        The drawing; None where no row has such a column.
    """
    labels = np.array(list(data.rows), dtype=object)
    every = np.array([[_mean(seeds, transfer_column(source)) for source in labels] for seeds in data.rows.values()])
    known = np.isfinite(every)
    if not known.any():
        return None
    # As in the table a line for each row, of which there are mostly more than others take examples from.
    lines, places = known.any(axis=1), known.any(axis=0)
    asked, made, matrix = list(labels[lines]), list(labels[places]), every[lines][:, places]
    longest = max(map(len, made))
    figure = new_figure("PGD-20 examples of one network on another", 1.9 + 0.3 * len(asked) + 0.07 * longest, PHONE_IN)
    axes = figure.subplots()
    axes.imshow(matrix, cmap=SEQUENTIAL, vmin=0, vmax=100, aspect="auto")
    for line, place in np.argwhere(np.isfinite(matrix)):
        value = matrix[line, place]
        shade = "black" if value > 55 else "white"
        size = 8.5 if len(made) < 8 else 6.5
        axes.text(place, line, f"{value:.0f}", ha="center", va="center", color=shade, fontsize=size)
    own = np.array([[_one_network(data.rows[target], data.rows[source], target == source) for source in made]
                    for target in asked])  # fmt: skip
    for line, place in np.argwhere(own & np.isfinite(matrix)):
        framed(axes, place - 0.44, line - 0.42, 0.88, 0.84)
    axes.set_xticks(range(len(made)), made, rotation=90 if longest > 4 else 0)
    axes.set_yticks(range(len(asked)), asked)
    axes.set_xlabel("made on")
    axes.set_ylabel("classified by")
    axes.spines[:].set_visible(False)
    shared_colours(figure, [axes], "accuracy, %", 0, 100, SEQUENTIAL)
    # Of clean images a network knows so many: those that it knew and loses are what transfers.
    clean = [np.mean([seen.scalars.get("natural", 100.0) for seen in data.rows[target].values()]) for target in asked]
    lost = np.where(own, np.nan, np.array(clean)[:, None] - matrix)
    told = ""
    if np.isfinite(lost).any():
        line, place = divmod(int(np.nanargmax(lost)), len(made))
        pair = f"made on {made[place]} and classified by {asked[line]}"
        told = f" What costs most beside clean images is {pair}: {matrix[line, place]:.0f} %."
    caption = (
        "Accuracy, in percent, of the network at the left on the PGD-20 examples that are made on the network below, "
        "without the attacker seeing the one at the left. Framed: made on the very same network, with a filter before "
        "it or without. Dark cells without a frame are examples that transfer: both networks attend to what the attack "
        "changed."
    )
    return Drawing(figure, caption + told)


def _one_network(rows: Mapping[int, RowData], others: Mapping[int, RowData], same_row: bool) -> bool:
    return same_row or bool(_networks(rows) & _networks(others))


def _networks(seeds: Mapping[int, RowData]) -> set[tuple[str, object]]:
    """The networks of a row: rows of one training may be of its averages or epochs."""
    return {
        (seen.training, seen.settings.get("measurement", {}).get("network")) for seen in seeds.values() if seen.training
    }


def _mean(seeds: Mapping[int, RowData], metric: str) -> float:
    """Over the seeds that have it; nan where none has."""
    values = [seen.scalars[metric] for seen in seeds.values() if metric in seen.scalars]
    return float(np.mean(values)) if values else np.nan


@draws("epochs")
def draw_epochs(data: FigureData) -> Drawing | None:
    """Figure epochs: R and the perturbation's spectrum at the epochs whose networks were kept.

    Rows of one training (`measurement.network: epoch:60` and others) are one line.

    Args:
        data: Rows with the arrays of the analysis `spectrum` of two epochs at least, and the curve `energy/ratio`.

    Returns:
        The drawing; None where no training has two such epochs.
    """
    rows = _with_epochs(data, "spectrum/profile")
    if not rows:
        return None
    figure = new_figure("Low frequencies, and what PGD-20 adds, by epoch", 2.9 + 2.1 * len(rows), PHONE_IN)
    first, *rest = figure.subplots(1 + len(rows), 1, height_ratios=[1.1, *[1.0] * len(rows)])
    told = []
    for number, (label, seeds) in enumerate(rows.items()):
        marked = sorted(set.intersection(*(set(seen.epochs) for seen in seeds)))
        curves = [seen.curves["energy/ratio"] for seen in seeds if "energy/ratio" in seen.curves]
        epochs, values = along_epochs(curves) if curves else ([], np.empty((0, 0)))
        if epochs:
            mean = values.mean(axis=0)
            here = [epochs.index(epoch) for epoch in marked if epoch in epochs]
            first.plot(epochs, mean, marker="o", markevery=here, label=label, linewidth=1.8, **_look(number))
        axes = rest[number]
        _by_epoch(axes, marked, seeds)
        axes.set_title(f"{label}: PGD-20 − clean")
        low = [_central(_profile_at(seeds, epoch)) for epoch in (marked[0], marked[-1])]
        told.append(f"{label} from {low[0]:.0f} % in epoch {marked[0]} to {low[1]:.0f} % in epoch {marked[-1]}")
    limits = [axes.get_ylim() for axes in rest]
    for axes in rest:  # rows are compared
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    first.set_title("R = |LFI| / |HFI| of the first activation; dots: kept networks")
    first.set_ylabel("R")
    first.set_ylim(bottom=0)
    first.set_xlabel("epoch")
    first.xaxis.set_major_locator(MaxNLocator(integer=True))
    first.grid(axis="y", color="0.9")
    if len(rows) > 1:
        first.legend(frameon=False, fontsize=8)
    rest[-1].set_xlabel(_AXIS)
    caption = (
        "Above, R after each epoch: the higher, the more the first layer passes on the constant part of a channel. "
        "Below, for each row the power of PGD-20's perturbation by frequency, from the earliest kept network (dark) to "
        "the last (bright); the dotted line is white noise. Lines that rise on the left say that low frequencies are "
        f"attacked more and more. Share of its energy below half of the frequencies, by distance: {'; '.join(told)}."
    )
    return Drawing(figure, caption)


def _of_networks(rows: Mapping[str, dict[int, RowData]]) -> dict[str, dict[int, RowData]]:
    """The first of the rows that share a network: what an analysis of it found is the same of all."""
    known: set[tuple[str, object]] = set()
    found: dict[str, dict[int, RowData]] = {}
    for label, seeds in rows.items():
        networks = _networks(seeds)
        if not networks & known:
            found[label] = seeds
        known |= networks
    return found


def _with_epochs(data: FigureData, array: str) -> dict[str, list[RowData]]:
    """Trainings with an array of two epochs at least: the labels of their rows -> what each seed's have together."""
    together: dict[tuple[str, int], RowData] = {}
    labels: dict[str, list[str]] = {}
    for label, seeds in data.rows.items():
        for seed, seen in seeds.items():
            key = (seen.training or label, seed)
            known = together[key].epochs if key in together else {}
            epochs = {epoch: arrays for epoch, arrays in seen.epochs.items() if array in arrays}
            together[key] = replace(seen, epochs={**known, **epochs})
            labels.setdefault(key[0], []).append(label)
    names: dict[tuple[str, ...], list[RowData]] = {}
    for (training, _), seen in together.items():
        if len(seen.epochs) > 1:
            names.setdefault(tuple(dict.fromkeys(labels[training])), []).append(seen)
    return {rows[0] if len(rows) == 1 else f"{rows[0]} to {rows[-1]}": seeds for rows, seeds in names.items()}


def _profile_at(seeds: Iterable[RowData], epoch: int) -> NDArray[np.floating]:
    return np.asarray(np.mean([seen.epochs[epoch]["spectrum/profile"] for seen in seeds], axis=0))


def _by_epoch(axes: Axes, epochs: list[int], seeds: list[RowData]) -> None:
    colours = matplotlib.colormaps[SEQUENTIAL](np.linspace(0.0, 0.88, len(epochs)))
    for epoch, colour, dash in zip(epochs, colours, (DASHES * len(epochs))[: len(epochs)], strict=True):
        profile = _profile_at(seeds, epoch)
        shown = _within(profile)
        axes.plot(np.arange(len(profile))[shown], profile[shown], color=colour, linestyle=dash, label=f"epoch {epoch}")
    _power_axes(axes)
    axes.legend(frameon=False, fontsize=8, ncols=1 + len(epochs) // 5)


def _central(profile: NDArray[np.floating]) -> float:
    """Percent of a radial profile's energy within half the largest distance that fits the image."""
    half = len(profile[_within(profile)]) - 1
    axis = np.arange(2 * half) - half
    distance = np.rint(np.hypot(axis[:, None], axis[None, :])).astype(int)
    energy = profile[distance]
    return float(100.0 * energy[distance <= half // 2].sum() / max(energy.sum(), np.finfo(float).tiny))


def _look(number: int) -> Mapping[str, object]:
    return dict(zip(("color", "linestyle"), line_look(number), strict=True))
