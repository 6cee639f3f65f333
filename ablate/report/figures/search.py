"""Figures of a search: learning curves with rungs, parallel coordinates, what matters, and the Pareto front."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ablate.core.text import plural
from ablate.report.figures.pictures import Picture, picture
from ablate.report.figures.style import COLOURS, SEQUENTIAL, STYLE, new_figure
from ablate.report.search import SampleResult, SearchSummary, coordinates, importances, pareto_front
from ablate.spaces.figures import Drawing
from ablate.spaces.search import Parameter
from ablate.spaces.settings import format_value

_GREY = "0.72"
_BEST = COLOURS[1]
_OFF = -0.25
_NAMES = {
    "validation/natural": "natural validation accuracy",
    "validation/attack": "validation accuracy under its own attack",
    "validation/robust": "validation accuracy under PGD-7",
}


def pictures(results: SearchSummary) -> dict[str, Picture]:
    """Every figure that a search's samples are enough for.

    Returns:
        Name -> picture, in the order of a page.
    """
    drawers = {
        "curves": ("Learning curves", draw_curves),
        "front": ("Pareto front", draw_front),
        "progress": ("Progress of the search", draw_progress),
        "parallel": ("Parallel coordinates", draw_parallel),
        "importance": ("What matters", draw_importances),
    }
    found = {}
    with matplotlib.rc_context(STYLE):
        for name, (title, drawer) in drawers.items():
            drawing = drawer(results)
            if drawing is not None:
                found[f"search-{name}"] = picture(f"search-{name}", title, drawing)
    return found


def rungs(results: SearchSummary) -> list[int]:
    """The epochs at which successive halving compares: grace, grace * reduction, ... below the last."""
    scheduler = results.search.scheduler
    epochs = max((int(sample.spec["training"]["epochs"]) for sample in results.samples), default=0)
    if scheduler.name != "asha":
        return []
    found, at = [], float(min(scheduler.grace_epochs, epochs))
    while at < epochs:
        found.append(int(np.ceil(at)))
        at *= scheduler.reduction
    return found


def draw_curves(results: SearchSummary) -> Drawing | None:
    """The first objective of every sample by epoch; dots where one was stopped, dashed lines at the rungs."""
    metric = results.search.objective[0].metric
    curves = [(sample, sample.curves.get(metric, {})) for sample in results.samples]
    if not any(curve for _, curve in curves):
        return None
    figure = new_figure("Learning curves of the samples", 3.8, 7.5)
    axes = figure.subplots()
    best = {sample.label for sample in pareto_front(results)[:1]}
    for sample, curve in sorted(curves, key=lambda pair: (pair[0].label in best, pair[0].state == "complete")):
        if not curve:
            continue
        epochs, values = list(curve), list(curve.values())
        colour = _BEST if sample.label in best else COLOURS[0] if sample.state == "complete" else _GREY
        axes.plot(epochs, values, color=colour, linewidth=2.2 if sample.label in best else 1.1)
        if sample.state == "stopped":
            axes.plot(epochs[-1:], values[-1:], "o", color="0.45", markersize=4)
        elif sample.state == "failed":
            axes.plot(epochs[-1:], values[-1:], "x", color="black", markersize=6)
    for rung in rungs(results):
        axes.axvline(rung, color="0.35", linestyle=":", linewidth=1)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{_NAMES[metric]}, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    for label, style in (
        ("best", {"color": _BEST, "linewidth": 2.2}),
        ("trained to the end", {"color": COLOURS[0]}),
        ("stopped early", {"color": _GREY, "marker": "o", "markeredgecolor": "0.45", "markerfacecolor": "0.45"}),
    ):
        axes.plot([], [], label=label, **style)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    whole = sum(int(sample.spec["training"]["epochs"]) for sample in results.samples)
    saved = f" They trained {results.epochs} of the {whole} epochs that all of them would have taken."
    dotted = " Dotted lines: the rungs, at which the worse are stopped." if rungs(results) else ""
    return Drawing(figure, f"{_first_upper(_NAMES[metric])} of each sample after each epoch.{dotted}{saved}")


def draw_progress(results: SearchSummary) -> Drawing | None:
    """With one objective: its value of each sample, in order, and the best so far."""
    if len(results.search.objective) != 1 or len(results.complete) < 2:
        return None
    objective = results.search.objective[0]
    figure = new_figure("Progress of the search", 3.2, 7.0)
    axes = figure.subplots()
    better = max if objective.mode == "max" else min
    places, values, so_far = [], [], []
    for place, sample in enumerate(results.samples):
        if sample.state == "complete":
            places.append(place)
            values.append(sample.objectives[0])
            so_far.append(better(values))
    axes.plot(places, values, "o", color=COLOURS[0], label="sample")
    axes.step(places, so_far, where="post", color=_BEST, label="best so far")
    axes.set_xlabel("sample")
    axes.set_ylabel(f"{_NAMES[objective.metric]}, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    best = pareto_front(results)[0]
    return Drawing(
        figure,
        f"{_first_upper(_NAMES[objective.metric])} after the last epoch, of the samples trained to it. The best is "
        f"{best.label} with {best.objectives[0]:.2f} %.",
    )


def draw_front(results: SearchSummary) -> Drawing | None:
    """With two objectives: each complete sample, and the front that nothing beats."""
    if len(results.search.objective) != 2 or not results.complete:
        return None
    first, second = (objective.metric for objective in results.search.objective)
    figure = new_figure("Pareto front", 4.0, 6.0)
    axes = figure.subplots()
    points = np.array([sample.objectives for sample in results.complete])
    front = pareto_front(results)
    ahead = np.array([sample.objectives for sample in front])
    axes.plot(points[:, 0], points[:, 1], "o", color=_GREY, label="sample")
    axes.plot(ahead[:, 0], ahead[:, 1], "o-", color=_BEST, label="Pareto front")
    for sample in front:
        place = (sample.objectives[0], sample.objectives[1])
        axes.annotate(sample.label.removeprefix("sample "), place, xytext=(5, 4), textcoords="offset points")
    axes.set_xlabel(f"{_NAMES[first]}, %")
    axes.set_ylabel(f"{_NAMES[second]}, %")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return Drawing(
        figure,
        f"Each dot is a sample trained to its last epoch, numbered on the front: {plural(len(front), 'sample')} of "
        f"{len(results.complete)} that no other one beats on both.",
    )


def draw_parallel(results: SearchSummary) -> Drawing | None:
    """An axis for each parameter and for the first objective; a line for each sample."""
    metric = results.search.objective[0].metric
    drawn = [sample for sample in results.samples if sample.curves.get(metric)]
    if len(drawn) < 2:
        return None
    paths = list(results.search.parameters)
    reached = np.array([list(sample.curves[metric].values())[-1] for sample in drawn])
    low, high = float(reached.min()), float(reached.max())
    span = (high - low) or 1.0
    columns = [coordinates(results.search.parameters[path], path, drawn) for path in paths]
    lines = np.column_stack([*columns, (reached - low) / span])
    figure = new_figure("Parallel coordinates", 4.2)
    axes = figure.subplots()
    colours = matplotlib.colormaps[SEQUENTIAL]
    for sample, line in sorted(zip(drawn, lines, strict=True), key=lambda pair: float(pair[1][-1])):
        whole = sample.state == "complete"
        axes.plot(
            range(len(line)), line, color=colours(line[-1]), linewidth=1.8 if whole else 0.9, alpha=1 if whole else 0.6,
            linestyle="-" if whole else "--",
        )  # fmt: skip
    for place, path in enumerate(paths):
        _axis(axes, place, path, results.search.parameters[path], bool((columns[place] == _OFF).any()))
    _labels(axes, len(paths), {0.0: f"{low:.1f}", 0.5: f"{(low + high) / 2:.1f}", 1.0: f"{high:.1f}"})
    names = [path.rpartition(".")[2].replace("_", "\n") for path in paths]
    axes.set_xticks(range(len(paths) + 1), [*names, metric.replace("/", "\n")])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=10)
    axes.set_xlim(-0.3, len(paths) + 0.35)
    axes.set_ylim(-0.32 if any((column == _OFF).any() for column in columns) else -0.06, 1.06)
    mappable = matplotlib.cm.ScalarMappable(norm=matplotlib.colors.Normalize(low, high), cmap=colours)
    figure.colorbar(mappable, ax=axes, label=f"{metric}, % (last epoch trained)", fraction=0.04, pad=0.03)
    return Drawing(
        figure,
        "Each line is a sample, from its settings on the left to what it reached on the right. Solid lines were "
        "trained to the end, dashed ones stopped early or failed; – is a setting that was not searched in the sample.",
    )


def draw_importances(results: SearchSummary) -> Drawing | None:
    """How much each parameter matters for each objective."""
    found = [importances(results, number) for number in range(len(results.search.objective))]
    shown = [each for each in found if each is not None]
    if not shown:
        return None
    paths = list(shown[0].shares)[::-1]
    figure = new_figure("What matters", 1.2 + 0.36 * len(paths) * len(shown), 7.0)
    axes = figure.subplots()
    height = 0.8 / len(shown)
    for number, each in enumerate(shown):
        places = np.arange(len(paths)) + (len(shown) - 1 - number) * height - (len(shown) - 1) * height / 2
        axes.barh(places, [100 * each.shares[path] for path in paths], height, color=COLOURS[number], label=each.metric)
    axes.set_yticks(range(len(paths)), paths)
    axes.set_xlabel("share of what the parameters explain, %")
    axes.set_xlim(left=0)
    if len(shown) > 1:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    scores = "; ".join(f"{each.metric} of {each.samples} samples after epoch {each.epoch}" for each in shown)
    return Drawing(
        figure,
        f"Permutation importance of a random forest fitted to {scores}. Of so few samples it is a hint, no proof.",
    )


def _axis(axes: Axes, place: int, path: str, parameter: Parameter, off: bool) -> None:
    samples: list[SampleResult] = []
    if parameter.choice is not None:
        values = list(parameter.choice)
    else:
        low, high = parameter.bounds
        middle = float(np.sqrt(low * high)) if parameter.loguniform is not None else (low + high) / 2
        values = [low, middle, high]
    samples = [SampleResult("", {path: value}, "open") for value in values]
    marks = dict(zip(coordinates(parameter, path, samples).tolist(), (_short(value) for value in values), strict=True))
    if off:
        marks[_OFF] = "–"
    _labels(axes, place, marks)


def _labels(axes: Axes, place: int, marks: dict[float, str]) -> None:
    axes.plot([place, place], [0, 1], color="0.3", linewidth=1, zorder=3)
    for height, text in marks.items():
        axes.text(
            place + 0.04, height, text, fontsize=7.5, va="center", zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        )  # fmt: skip


def _short(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else format_value(value)


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
