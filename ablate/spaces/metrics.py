"""One name of a metric: what was measured on which network, and what that is called where.

    | tables, claims, figures | runs, plans, JSON         | the same of the best network     |
    |-------------------------|---------------------------|----------------------------------|
    | `pgd20`                 | `accuracy/pgd20`          | `accuracy_best/pgd20`            |
    | `adaptive/pgd20`        | `accuracy_adaptive/pgd20` | `accuracy_adaptive_best/pgd20`   |
    | `energy/ratio`          | `energy/ratio`            | `best/energy/ratio`              |

Nobody else cuts or joins such names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ablate.core.errors import SpecError

Network = Literal["last", "best"]
"""Of the last epoch, or the best on the images held out for validation."""

_ADAPTIVE = "adaptive/"
_BEST = "best/"
_BEST_LABEL = "_best"
_ACCURACIES: dict[str, tuple[bool, Network]] = {
    "accuracy/": (False, "last"),
    "accuracy_best/": (False, "best"),
    "accuracy_adaptive/": (True, "last"),
    "accuracy_adaptive_best/": (True, "best"),
}
"""What runs put before a column -> whether the attack went through the filter, and whose accuracy it is."""

_MIXED = ("adaptive_best/",)
"""What people write who have seen both kinds of names."""


@dataclass(frozen=True)
class Metric:
    """A number of one network.

    Args:
        column: An attack's column (`pgd20`), or a scalar's own name (`energy/ratio`).
        network: Whose number it is.
        adaptive: Whether the attack went through the low-pass filter.
        accuracy: Whether it is a share of test images in percent; else it is a scalar.
    """

    column: str
    network: Network = "last"
    adaptive: bool = False
    accuracy: bool = True

    @classmethod
    def from_name(cls, name: str, network: Network = "last") -> Metric:
        """A metric by the name that tables and claims have for it.

        Args:
            name: `pgd20`, `adaptive/pgd20` or `energy/ratio`; a scalar's name has a slash.
            network: Whose number is meant, which the name does not say.
        """
        if name.startswith(_ADAPTIVE):
            return cls(name.removeprefix(_ADAPTIVE), network, adaptive=True)
        return cls(name, network, accuracy="/" not in name)

    @classmethod
    def from_run(cls, name: str) -> Metric:
        """A metric by the name that runs, plans and JSON have for it."""
        for prefix, (adaptive, network) in _ACCURACIES.items():
            if name.startswith(prefix):
                return cls(name.removeprefix(prefix), network, adaptive)
        if name.startswith(_BEST):
            return cls(name.removeprefix(_BEST), "best", accuracy=False)
        return cls(name, accuracy=False)

    @property
    def name(self) -> str:
        """What tables and claims call it, of whichever network."""
        return f"{_ADAPTIVE}{self.column}" if self.adaptive else self.column

    @property
    def run_name(self) -> str:
        """What runs, plans and JSON call it."""
        if not self.accuracy:
            return f"{_BEST}{self.column}" if self.network == "best" else self.column
        places = {place: prefix for prefix, place in _ACCURACIES.items()}
        return f"{places[self.adaptive, self.network]}{self.column}"


def is_accuracy(name: str) -> bool:
    """Whether a metric is a share of test images in percent, so that it carries test-set error.

    Args:
        name: As tables and claims have it.

    Returns:
        True for columns, also adaptive ones; False for scalars, whose names have a slash.
    """
    return Metric.from_name(name).accuracy


def meant_by(name: str) -> Metric | None:
    """The metric that is meant by a name that tables and claims do not have: one of runs, or a mixture of both.

    Returns:
        None where it looks like none of them.
    """
    for prefix in _MIXED:
        if name.startswith(prefix):
            return Metric(name.removeprefix(prefix), "best", adaptive=True)
    found = Metric.from_run(name)
    return found if found.accuracy or found.network == "best" else None


def refused_scalar(name: str) -> str | None:
    """Why a name can be no scalar's of an analysis: it would be taken for another number.

    Returns:
        `expected ..., got ...`; None for a good one.
    """
    if Metric.from_run(name) == Metric(name, accuracy=False) and not name.startswith(_ADAPTIVE):
        return None
    return f"expected a scalar's name that does not begin as one of an accuracy or of the best network, got {name!r}"


def analysis_label(analysis: str, network: Network) -> str:
    """What plans call an analysis of one network.

    Raises:
        SpecError: A name that would be taken for that of another analysis.
    """
    if analysis.endswith(_BEST_LABEL):
        raise SpecError(
            f"measurement.analyses: expected a name that does not end in {_BEST_LABEL}, which says that the best "
            f"network is meant, got {analysis!r}; did you mean {analysis.removesuffix(_BEST_LABEL)!r}?"
        )
    return f"{analysis}{_BEST_LABEL}" if network == "best" else analysis


def from_analysis_label(label: str) -> tuple[str, Network]:
    """The analysis and the network of a label of `analysis_label`."""
    return label.removesuffix(_BEST_LABEL), "best" if label.endswith(_BEST_LABEL) else "last"


def scalar_of(label: str, scalar: str) -> Metric:
    """A scalar that an analysis found.

    Args:
        label: The analysis, as plans have it.
        scalar: The scalar's own name.
    """
    return Metric(scalar, from_analysis_label(label)[1], accuracy=False)


def from_array(name: str) -> tuple[str, Network]:
    """An array by the name that runs have for it.

    Args:
        name: `<analysis as plans have it>/<array>`.

    Returns:
        Its name in figures, `<analysis>/<array>`, and the network that it is of.
    """
    label, slash, array = name.partition("/")
    analysis, network = from_analysis_label(label)
    return f"{analysis}{slash}{array}", network
