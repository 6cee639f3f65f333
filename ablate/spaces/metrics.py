"""One name of a metric: what was measured on which network, and what that is called where.

    | tables, claims, figures | runs, plans, JSON         | the same of the best network     |
    |-------------------------|---------------------------|----------------------------------|
    | `pgd20`                 | `accuracy/pgd20`          | `accuracy_best/pgd20`            |
    | `adaptive/pgd20`        | `accuracy_adaptive/pgd20` | `accuracy_adaptive_best/pgd20`   |
    | `energy/ratio`          | `energy/ratio`            | `best/energy/ratio`              |

Likewise of `ema`, `ema_best` and `epoch:60`. Nobody else cuts or joins such names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ablate.core.errors import SpecError
from ablate.spaces.networks import Network

_ADAPTIVE = "adaptive/"
_TRANSFER = "transfer_"
_OTHER = r"best|ema|ema_best|epoch:[0-9]+"
"""Networks that are not `last`, of which names tell nothing."""
_OF_NETWORK = re.compile(rf"({_OTHER})/")
_LABEL = re.compile(rf"(.*?)_({_OTHER})")
_ACCURACY = re.compile(rf"accuracy(_adaptive)?(?:_({_OTHER}))?/")
"""What runs put before a column: whether the attack went through the filter, and whose accuracy it is."""

_MIXED = re.compile(rf"adaptive_({_OTHER})/")
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
        accuracy, other = _ACCURACY.match(name), _OF_NETWORK.match(name)
        if accuracy is not None:
            return cls(name[accuracy.end() :], accuracy[2] or "last", accuracy[1] is not None)
        if other is not None:
            return cls(name[other.end() :], other[1], accuracy=False)
        return cls(name, accuracy=False)

    @property
    def name(self) -> str:
        """What tables and claims call it, of whichever network."""
        return f"{_ADAPTIVE}{self.column}" if self.adaptive else self.column

    @property
    def run_name(self) -> str:
        """What runs, plans and JSON call it."""
        last = self.network == "last"
        if not self.accuracy:
            return self.column if last else f"{self.network}/{self.column}"
        whose = "" if last else f"_{self.network}"
        return f"accuracy{'_adaptive' if self.adaptive else ''}{whose}/{self.column}"


def transfer_column(label: str) -> str:
    """The column of the examples that are made on the network of a row, by the row's label."""
    return f"{_TRANSFER}{re.sub(r'[^0-9A-Za-z]+', '_', label).strip('_')}"


def transferred(name: str) -> str | None:
    """Of a column of transferred examples the row that they are from, as the column has it; None of other columns."""
    metric = Metric.from_run(name)
    column = metric.column if metric.accuracy else name
    return column.removeprefix(_TRANSFER) if column.startswith(_TRANSFER) and "/" not in column else None


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
    mixed = _MIXED.match(name)
    if mixed is not None:
        return Metric(name[mixed.end() :], mixed[1], adaptive=True)
    found = Metric.from_run(name)
    return found if found.accuracy or found.network != "last" else None


def refused_scalar(name: str) -> str | None:
    """Why a name can be no scalar's of an analysis: it would be taken for another number.

    Returns:
        `expected ..., got ...`; None for a good one.
    """
    if Metric.from_run(name) == Metric(name, accuracy=False) and not name.startswith(_ADAPTIVE):
        return None
    return f"expected a scalar's name that does not begin as one of an accuracy or of another network, got {name!r}"


def analysis_label(analysis: str, network: Network) -> str:
    """What plans call an analysis of one network.

    Raises:
        SpecError: A name that would be taken for that of another analysis.
    """
    own, network_meant = from_analysis_label(analysis)
    if network_meant != "last":
        raise SpecError(
            f"measurement.analyses: expected a name that does not end in _{network_meant}, which says that another "
            f"network is meant, got {analysis!r}; did you mean {own!r}?"
        )
    return analysis if network == "last" else f"{analysis}_{network}"


def from_analysis_label(label: str) -> tuple[str, Network]:
    """The analysis and the network of a label of `analysis_label`."""
    found = _LABEL.fullmatch(label)
    return (label, "last") if found is None else (found[1], found[2])


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
