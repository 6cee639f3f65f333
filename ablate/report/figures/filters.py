"""Accuracy of networks behind low-pass and high-pass filters, by where the filter cuts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from ablate.core.text import plural
from ablate.report.figures.style import COLOURS, PHONE_IN, legend_below, new_figure
from ablate.spaces.figures import Drawing, FigureData, RowData, draws

_PANELS = {"natural": "Clean images", "pgd20": "PGD-20, made without the filter"}
_KINDS = {
    "lowpass": ("low-pass", "-", "o"),
    "highpass": ("high-pass", "--", "s"),
    "highpass with mean": ("high-pass + mean", ":", "^"),
}
_LEAST_POINTS = 2
_CLOSE = 1.0  # cycles per image, nearer than which two labels would touch


@dataclass
class _Network:
    """One network as rows have it, behind several filters.

    Attributes:
        name: How the figure calls it.
        label: Of its first row.
        size: Of its images, in pixels.
        seen: Kind of filter -> degree -> the row's seeds.
    """

    name: str
    label: str
    size: int
    seen: dict[str, dict[int, Mapping[int, RowData]]] = field(default_factory=dict)

    def line(self, kind: str, metric: str) -> tuple[list[float], list[float], list[float]]:
        """Cut-offs in cycles per image, means and deviations over the seeds, of what has the metric."""
        found = {}
        for degree, seeds in sorted(self.seen.get(kind, {}).items()):
            values = [each.scalars[metric] for each in seeds.values() if metric in each.scalars]
            if values:
                found[degree / 2] = (float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)
        return list(found), [mean for mean, _ in found.values()], [deviation for _, deviation in found.values()]


@draws("filters")
def draw_filters(data: FigureData) -> Drawing | None:
    """Figure filters: accuracy of each network behind low-pass and high-pass filters, by where these cut.

    Rows whose settings differ in what is measured alone are one network. One without a filter is the low-pass filter
    that keeps everything, and the high-pass filters that take nothing away.

    Args:
        data: Rows with the column `natural`, and perhaps `pgd20`.

    Returns:
        The drawing; None where no network is measured behind two filters of a kind at least.
    """
    networks = _networks(data)
    panels = [metric for metric in _PANELS if _lines(networks, metric)]
    if not panels:
        return None
    figure = new_figure("Accuracy behind low-pass and high-pass filters", 1.5 + 2.5 * len(panels), PHONE_IN)
    drawn = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    known: dict[str, Any] = {}
    ticks: set[float] = set()
    for axes, metric in zip(drawn, panels, strict=True):
        for name, kind, colour, (at, means, deviations) in _lines(networks, metric):
            words, dash, marker = _KINDS[kind]
            # Not cut off at 100 %, where many points lie.
            look = {"color": colour, "linestyle": dash, "marker": marker}
            [line] = axes.plot(at, means, markersize=4.5, linewidth=1.7, clip_on=False, **look)
            below, above = np.subtract(means, deviations), np.add(means, deviations)
            axes.fill_between(at, below, above, color=colour, alpha=0.2, linewidth=0)
            known.setdefault(f"{name}, {words}", line)
            ticks.update(at)
        axes.set_title(_PANELS[metric])
        axes.set_ylabel("accuracy, %")
        axes.set_ylim(0, 100)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
    _cut_offs(drawn[-1], ticks)
    legend_below(figure, list(known.values()), list(known), 2)
    return Drawing(figure, _caption(networks, panels))


def _networks(data: FigureData) -> list[_Network]:
    found: dict[str, _Network] = {}
    for label, seeds in data.rows.items():
        settings = next((each.settings for each in seeds.values() if each.settings), None)
        if settings is None or settings["measurement"].get("bandstop_degrees") is not None:
            continue
        trained = {name: value for name, value in settings.items() if name not in ("seed", "measurement")}
        measured = settings["measurement"]
        size = settings["data"]["image_size"]
        network = found.setdefault(
            json.dumps([trained, measured.get("network")], sort_keys=True),
            _Network(_name(settings, label), label, size),
        )
        removed = measured.get("highpass_degree")
        kept = size if measured.get("lowpass_degree") is None else measured["lowpass_degree"]
        if removed is not None:
            kind = "highpass with mean" if measured.get("highpass_keep_mean") else "highpass"
            network.seen.setdefault(kind, {}).setdefault(removed, seeds)
        else:
            network.seen.setdefault("lowpass", {}).setdefault(kept, seeds)
            if kept == size:
                for kind in ("highpass", "highpass with mean"):
                    network.seen.setdefault(kind, {}).setdefault(0, seeds)
    names = [network.name for network in found.values()]
    for network in found.values():
        if names.count(network.name) > 1:
            network.name = network.label
    return list(found.values())


def _name(settings: Mapping[str, Any], label: str) -> str:
    if settings["model"].get("weights") is not None:
        return label
    return "natural" if settings["training"]["attack"]["name"] == "none" else "robust"


_Line = tuple[str, str, str, tuple[list[float], list[float], list[float]]]


def _lines(networks: Iterable[_Network], metric: str) -> list[_Line]:
    """Network, kind of filter, colour and points of each line; one point is none."""
    return [
        (network.name, kind, COLOURS[number % len(COLOURS)], line)
        for number, network in enumerate(networks)
        for kind in _KINDS
        if len((line := network.line(kind, metric))[0]) >= _LEAST_POINTS
    ]


def _cut_offs(axes: Axes, ticks: set[float]) -> None:
    """Mark where filters cut; of cut-offs that lie close together the first is named."""
    named: list[float] = []
    for tick in sorted(ticks):
        if not named or tick - named[-1] >= _CLOSE * max(ticks) / 16:
            named.append(tick)
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sorted(ticks), [f"{tick:g}" if tick in named else "" for tick in sorted(ticks)])
    axes.set_xlabel("cut-off, cycles per image (half the filter’s degree)")


def _caption(networks: Sequence[_Network], panels: Iterable[str]) -> str:
    told = [words for network in networks for kind in _KINDS if (words := _loss(network, kind)) is not None]
    caption = (
        "Accuracy behind filters. Solid: low-pass, which keeps what lies below the cut-off, so that its right end is "
        "no filter; dashed: high-pass, which keeps what lies above, so that its left end is no filter. A network that "
        "looks at low frequencies keeps its solid line high towards the left, and loses its dashed line at once."
    )
    if any(kind == "highpass with mean" for panel in panels for _, kind, *_ in _lines(networks, panel)):
        caption += " Dotted: high-pass that leaves each channel its mean, so that what is lost there is not the mean's."
    if "pgd20" in panels:
        caption += " Below, the same of PGD-20 examples, whose attacker knows of no filter."
    return caption + (f" On clean images: {'; '.join(told)}." if told else "")


def _loss(network: _Network, kind: str) -> str | None:
    """What a network loses behind one filter: the low-pass nearest to half of the frequencies, the lowest high-pass."""
    at, means, _ = network.line("lowpass", "natural")
    unfiltered = dict(zip(at, means, strict=True)).get(network.size / 2)
    cuts, kept, _ = network.line(kind, "natural")
    points = [(cut, mean) for cut, mean in zip(cuts, kept, strict=True) if 0 < cut < network.size / 2]
    if unfiltered is None or not points:
        return None
    cut, mean = min(points, key=lambda point: abs(point[0] - network.size / 4)) if kind == "lowpass" else points[0]
    where = f"behind {_KINDS[kind][0]} at {plural(cut, 'cycle')} per image"
    return f"{network.name} {where} from {unfiltered:.1f} to {mean:.1f} %"
