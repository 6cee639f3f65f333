"""Figures by name: what each is called, which analyses it is drawn from, and what draws it.

Nothing here draws: a launch asks which analyses to run, and a report which function to call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ablate.core.errors import SpecError, nearest
from ablate.core.registry import Registry, table

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RowData:
    """What one row with one seed gave a figure to draw.

    Args:
        arrays: `<analysis>/<name>` -> array, e.g. `cka/matrix`.
        scalars: Metric -> value, named as claims do: columns (`pgd20`, percent) and what analyses found
            (`cka/shallow_deep`).
        curves: Metric of the training's history -> epoch -> value.
        epochs: Epoch of a measured network -> its arrays, as in `arrays`; of averages and the best network nothing.
        training: The training's key, which rows of one training share.
        settings: The trial's, in groups: `measurement` -> `lowpass_degree` -> value.
    """

    arrays: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    epochs: Mapping[int, Mapping[str, np.ndarray[Any, Any]]] = field(default_factory=dict)
    training: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FigureData:
    """Everything a figure may be drawn from: the rows of one table.

    Args:
        rows: Label -> seed -> what was seen, in the table's order; rows and seeds without results are absent.
        data: How the data set is called.
    """

    rows: Mapping[str, Mapping[int, RowData]]
    data: str = ""

    def having(self, *names: str) -> dict[str, dict[int, RowData]]:
        """The rows and seeds that have all of some arrays or curves.

        Args:
            names: Of arrays, or of curves.

        Returns:
            Label -> seed -> what was seen; rows without any such seed are left out.
        """
        found = {
            label: {
                seed: seen
                for seed, seen in sorted(seeds.items())
                if all(name in seen.arrays or name in seen.curves for name in names)
            }
            for label, seeds in self.rows.items()
        }
        return {label: seeds for label, seeds in found.items() if seeds}


@dataclass(frozen=True)
class Drawing:
    """A drawn figure.

    Args:
        figure: What was drawn.
        caption: What to see in it, for those who look and for those who cannot.
    """

    figure: Figure
    caption: str


Draw = Callable[[FigureData], Drawing | None]
"""Draws a figure; None where the data lack what it needs."""


@dataclass(frozen=True)
class FigureKind:
    """A figure that spaces may list.

    Args:
        name: What a space's `figures` calls it.
        title: Above it.
        analyses: What must be measured for it; it may need none, and live on the training's history.
    """

    name: str
    title: str
    analyses: tuple[str, ...]


_SHIPPED = (
    FigureKind("2", "Where the perturbation’s energy lies", ("spectrum",)),
    FigureKind("3", "Kernels of the first convolution", ("first_kernels",)),
    FigureKind("4", "Spectra of the kernels", ("kernel_spectra",)),
    FigureKind("5", "Low over high frequencies in the first activation, by epoch", ()),
    FigureKind("6", "Similarity of the layers under attack", ("cka",)),
    FigureKind("7", "Similarity of the layers, by architecture", ("cka",)),
    FigureKind("8", "Kernels of the first quantized layer", ("quantized_kernels",)),
    FigureKind("gradient_spectrum", "Where the loss gradient’s energy lies", ("gradient_spectrum",)),
    FigureKind("corruptions", "Accuracy under corruptions, by their frequency", ("corruptions",)),
    FigureKind("transfer", "PGD-20 examples of one network on another", ()),
    FigureKind("epochs", "Low frequencies, and what PGD-20 adds, by epoch", ("spectrum",)),
    FigureKind("filters", "Accuracy behind low-pass and high-pass filters", ()),
    FigureKind("heat_map", "Error under each frequency alone", ("heat_map",)),
    FigureKind("overfitting", "Robust accuracy on held-out images, by epoch", ()),
)
_kinds: dict[str, FigureKind] = table({kind.name: kind for kind in _SHIPPED})
_drawers: Registry[Draw] = Registry("figures", in_keys=False)


def draws(name: str) -> Callable[[Draw], Draw]:
    """The decorator of what draws a shipped figure.

    Raises:
        SpecError: There is no such figure, or another function draws it.
    """
    return _drawers.register(figure_kind(name).name)


def drawer_of(name: str) -> Draw:
    """What draws a figure; of the shipped ones, once `ablate.report.figures` is loaded.

    Raises:
        SpecError: Nothing draws a figure of that name.
    """
    return _drawers.get(figure_kind(name).name)


def register_figure(name: str, *, title: str, analyses: Iterable[str] = ()) -> Callable[[Draw], Draw]:
    """The decorator that lets spaces list a figure of a user's own module.

    Example, in a module that is loaded with `--import my_module`, beside the analysis it shows:

        @register_figure("sparsity", title="Zeros in the weights", analyses=["sparsity"])
        def draw_sparsity(data: FigureData) -> Drawing:
            figure = matplotlib.figure.Figure()
            figure.subplots().bar(list(data.rows), [...])
            return Drawing(figure, "Most weights of the last layer are zero.")

    Args:
        name: What a space's `figures` calls it.
        title: Above it.
        analyses: Registered analyses whose arrays it needs; they are measured wherever a space lists the figure.

    Raises:
        SpecError: The name belongs to another figure. The same one again takes the place of the first.
    """

    def decorate(draw: Draw) -> Draw:
        shipped = next((kind for kind in _SHIPPED if kind.name == name), None)
        if shipped is not None:
            raise SpecError(f"expected a new name for figures, got {name!r}, which is {shipped.title!r}")
        _drawers.register(name)(draw)
        _kinds[name] = FigureKind(name, title, tuple(analyses))
        return draw

    return decorate


def figure_names() -> list[str]:
    """The names a space's `figures` may list."""
    return list(_kinds)


def figure_kind(name: str) -> FigureKind:
    """A figure by its name.

    Raises:
        SpecError: There is none of that name.
    """
    if name not in _kinds:
        raise SpecError(f"expected a figure's name, got {name!r}; {nearest(name, _kinds)}")
    return _kinds[name]


def analyses_for(names: Iterable[str]) -> tuple[str, ...]:
    """Which analyses some figures are drawn from, each once.

    Args:
        names: Of figures.

    Raises:
        SpecError: There is no such figure.
    """
    return tuple(dict.fromkeys(analysis for name in names for analysis in figure_kind(name).analyses))
