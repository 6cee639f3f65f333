"""Learning curves as drawings of the browser: lines in the data's own numbers, and axes that are moved under them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.ticker import MaxNLocator

from ablate.report.figures import overview
from ablate.serve.board import Attributes, Piece

PANELS = {metric: f"{title[0].upper()}{title[1:]}" for metric, title in overview.PANELS.items()}
"""Metric -> the heading of its panel: all that the report's figure of curves has, which the page does not draw."""

MOST_POINTS = 120
"""Of a line; of more epochs every second, third ... is drawn, and the last."""

_WIDTH, _HEIGHT = 480.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 8.0, 24.0
_TICKS = 5


def name_of(metric: str) -> str:
    """What ids of a panel's elements end with."""
    return metric.replace("/", "-").replace("_", "-")


def panel_pieces() -> list[Piece]:
    """Empty panels."""
    return [
        Piece(f"panel-{name_of(metric)}", "curves", order, _panel(name_of(metric), heading))
        for order, (metric, heading) in enumerate(PANELS.items())
    ]


def _panel(name: str, heading: str) -> str:
    return (
        f'<figure id="panel-{name}"><figcaption>{escape(heading)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(heading)} by epoch">'
        f'<g id="ticks-{name}-frame"></g><g id="lines-{name}" class="lines"></g></svg></figure>'
    )


def line_piece(metric: str, training: str, words: str, colour: int, points: Mapping[int, float], order: int) -> Piece:
    """A training's line.

    Args:
        metric: Of the panel.
        training: Its key.
        words: What the line is of.
        colour: Number of its colour and dash, from 0.
        points: Epoch -> value, of numbers alone.
        order: Among the lines.
    """
    shown = _thinned(sorted(points.items()))
    told = " ".join(f"{epoch},{value:.4g}" for epoch, value in (shown if len(shown) > 1 else shown * 2))
    last = f": {shown[-1][1]:.4g} after epoch {shown[-1][0]}" if shown else ""
    name = f"line-{name_of(metric)}-{training}"
    html = (
        f'<polyline id="{name}" class="c{colour % 7} d{colour // 7 % 3}" data-training="{training}" '
        f'vector-effect="non-scaling-stroke" '
        f'points="{told}"><title>{escape(words + last)}</title></polyline>'
    )
    return Piece(name, f"lines-{name_of(metric)}", order, html, svg=True)


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    step = math.ceil(len(points) / MOST_POINTS)
    return [*points[:-1:step], points[-1]] if points else []


def axes_pieces(metric: str, epochs: int, low: float, high: float) -> list[Piece | Attributes]:
    """A panel's axes, and how its lines are moved to fit them.

    Args:
        metric: Of the panel.
        epochs: The axis ends there.
        low: The least value shown.
        high: The greatest.
    """
    name, epochs = name_of(metric), max(1, epochs)
    margin = 0.05 * (high - low) or max(0.05 * abs(high), 0.01)
    low, high = low - margin, high + margin
    across = (_WIDTH - _LEFT - _RIGHT) / epochs
    up = (_HEIGHT - _TOP - _BOTTOM) / (high - low)
    parts = []
    for value in MaxNLocator(_TICKS).tick_values(low, high):
        if low <= value <= high:
            y = _HEIGHT - _BOTTOM - (value - low) * up
            parts.append(f'<line x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for epoch in MaxNLocator(_TICKS, integer=True).tick_values(0, epochs):
        if 0 <= epoch <= epochs:
            x = _LEFT + epoch * across
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 6:g}" text-anchor="middle">{epoch:g}</text>')
    ticks = f'<g id="ticks-{name}" class="ticks">{"".join(parts)}</g>'
    moved = f"translate({_LEFT:g} {_HEIGHT - _BOTTOM + low * up:.3f}) scale({across:.6g} {-up:.6g})"
    return [
        Piece(f"ticks-{name}", f"ticks-{name}-frame", 0, ticks, svg=True),
        Attributes(f"lines-{name}", {"transform": moved}),
    ]
