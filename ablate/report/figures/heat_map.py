"""The Fourier heat map: the error under each frequency alone, a map of each row on one scale."""

from __future__ import annotations

import math

from ablate.report.figures.style import (
    PHONE_IN,
    SEQUENTIAL,
    format_metric,
    framed,
    mean_over,
    new_figure,
    shared_colours,
    wrapped,
)
from ablate.spaces.figures import Drawing, FigureData, draws

_ACROSS = 2
_STEP = 5.0  # points of error that the scale is rounded to
_SIXTHS = (1, 2)  # where thirds of 0 to size / 2 end, as in ablate.analysis.bands
_WORDS = {
    "error_low": "low third",
    "error_mid": "middle third",
    "error_high": "high third",
    "error_clean": "no wave",
}


@draws("heat_map")
def draw_heat_maps(data: FigureData) -> Drawing | None:
    """Figure heat_map: the error under each frequency alone, a map of every row; all share one scale.

    Args:
        data: Rows with the array of the analysis `heat_map`.

    Returns:
        The drawing; None where no row has it.
    """
    rows = data.having("heat_map/error")
    if not rows:
        return None
    maps = {label: mean_over(seeds.values(), "heat_map/error") for label, seeds in rows.items()}
    low = _STEP * math.floor(min(float(each.min()) for each in maps.values()) / _STEP)
    high = max(low + _STEP, _STEP * math.ceil(max(float(each.max()) for each in maps.values()) / _STEP))
    across = min(_ACROSS, len(maps))
    down = math.ceil(len(maps) / across)
    figure = new_figure(
        "Error under each frequency alone", 0.75 + 1.95 * down * (1.6 if across == 1 else 1.0), PHONE_IN
    )
    panels = figure.subplots(down, across, squeeze=False)
    for axes in panels.flat[len(maps) :]:
        axes.set_visible(False)
    for number, (axes, (label, error)) in enumerate(zip(panels.flat, maps.items(), strict=False)):
        size = len(error)
        edge = -(size // 2) - 0.5
        axes.imshow(error, cmap=SEQUENTIAL, vmin=low, vmax=high, extent=(edge, edge + size, edge + size, edge))
        for sixths in _SIXTHS:
            half = -(-sixths * size // 6) - 0.5
            framed(axes, -half, -half, 2 * half, 2 * half, dashes="--")
        ticks = [-(size // 2), 0, (size - 1) // 2]
        axes.set_xticks(ticks, [f"{tick}".replace("-", "−") for tick in ticks])
        axes.set_yticks(ticks if number % across == 0 else [])
        axes.yaxis.set_major_formatter(lambda tick, _: f"{tick:g}".replace("-", "−"))
        axes.spines[:].set_visible(False)
        axes.set_title(wrapped(label, (PHONE_IN - 0.8) / across))
        if number + across >= len(maps):
            axes.set_xlabel("cycles per image")
        if number % across == 0:
            axes.set_ylabel("cycles per image")
    shared_colours(figure, [axes for axes in panels.flat if axes.get_visible()], "error, %", low, high, SEQUENTIAL)
    caption = (
        "Error on test images to which one wave is added, a pixel of the map for each frequency, the zero frequency in "
        "the middle; brighter is more errors. All maps share one scale. The dashed squares part the low, middle and "
        "high third of the frequencies: a network that is bright inside the inner square alone is upset by low ones, "
        "a network that is bright outside by high ones."
    )
    told = []
    for label, seeds in rows.items():
        found = {words: format_metric(seeds, f"heat_map/{metric}", 1) for metric, words in _WORDS.items()}
        numbers = ", ".join(f"{words} {number}" for words, number in found.items() if number is not None)
        if numbers:
            told.append(f"{label}: {numbers}")
    return Drawing(figure, caption + (f" Mean error in % – {'; '.join(told)}." if told else ""))
