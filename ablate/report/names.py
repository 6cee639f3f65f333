"""How metrics are called where people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ablate.core.text import listed
from ablate.spaces.measurement import ON_FIRST_IMAGES
from ablate.spaces.metrics import Metric, from_analysis_label, transferred

COLUMN_NAMES = {
    "natural": "Natural",
    "gn": "GN",
    "fgsm": "FGSM",
    "pgd20": "PGD-20",
    "bim20": "BIM-20",
    "tpgd20": "TPGD-20",
    "cw20": "CW-20",
    "cw20_exact": "CW-20 exact",
    "apgd_ce": "APGD-CE",
    "apgd_t": "APGD-T",
    "fab_t": "FAB-T",
    "square": "Square",
    "aa": "AA",
    "worst": "Worst",
    "pgd20_low": "PGD-20 low",
    "pgd20_mid": "PGD-20 mid",
    "pgd20_high": "PGD-20 high",
    "energy/ratio": "R = LFI/HFI",
    "spectrum/central_energy_share": "Central energy share",
    "gradient_spectrum/mean_frequency": "Gradient's mean frequency",
    "gradient_spectrum/central_energy_share": "Gradient's central energy share",
    "corruptions/mean": "Under corruptions",
    "first_kernels/channel_similarity": "Channel similarity",
    "first_kernels/smoothness": "First kernels' smoothness",
    "kernel_spectra/high_frequency_share": "High-frequency share",
    "kernel_spectra/smoothness": "Kernels' smoothness",
    "cka/shallow_deep": "CKA shallow-deep",
    "quantized_kernels/smoothness": "Quantized kernels' smoothness",
}

OBJECTIVE_NAMES = {
    "validation/natural": "Validation natural",
    "validation/attack": "Validation attack",
    "validation/robust": "Validation PGD-7",
}
"""What stands above the objectives of a search."""

_CORRUPTIONS = "corruptions/"

_BY_QUERIES = ("square", "aa")
"""Columns that `measurement.square_queries` changes."""

_MINUS = re.compile(r"(?<![^\s(\[])-(?=\d)")

_NAMED = 3
"""So many measurements of those that failed are named."""

_GROUP = re.compile(r"_group(\d+)$")
"""How the metrics of one layer group end; group 0 is the first convolution."""


def with_minus(text: str) -> str:
    """A text with minus signs before its numbers."""
    return _MINUS.sub("\N{MINUS SIGN}", text)


def reduced_headers(settings: Iterable[tuple[int | None, int | None]]) -> dict[str, str]:
    """What stands above columns that were measured with less than all.

    Args:
        settings: `measurement.square_queries` and `measurement.images` of each trial; None where they are what they
            are by default.

    Returns:
        Column -> header, e.g. `AA, reduced (100 queries, 200 images)`; other columns are absent.
    """
    given = set(settings)
    queries, images = ([*dict.fromkeys(each[place] for each in sorted(given, key=str))] for place in (0, 1))
    headers = {}
    for column in ON_FIRST_IMAGES:
        parts = [
            f"{' or '.join('all' if value is None else str(value) for value in values)} {what}"
            for what, values, columns in (("queries", queries, _BY_QUERIES), ("images", images, ON_FIRST_IMAGES))
            if column in columns and any(value is not None for value in values)
        ]
        if parts:
            name = f"{COLUMN_NAMES[column]}, reduced" if column == "aa" else COLUMN_NAMES[column]
            headers[column] = f"{name} ({', '.join(parts)})"
    return headers


def column_name(metric: str) -> str:
    """The readable name of a metric.

    Args:
        metric: A name as claims and results use it.

    Returns:
        As the paper prints it where it does (`PGD-20`), with `adaptive` behind for an adaptive column; an unknown
        metric keeps its name.
    """
    named = Metric.from_name(metric)
    if named.adaptive:
        return f"{column_name(named.column)} adaptive"
    group = _GROUP.search(metric)
    if group is not None and metric not in COLUMN_NAMES:
        return f"{column_name(metric[: group.start()])}, group {group[1]}"
    if metric.startswith(_CORRUPTIONS) and metric not in COLUMN_NAMES:
        return f"Under {metric.removeprefix(_CORRUPTIONS).replace('_', ' ')}"
    source = transferred(metric)
    if source is not None:
        return f"PGD-20 of {source.replace('_', ' ')}"
    return COLUMN_NAMES.get(metric, metric)


def measurement_name(label: str) -> str:
    """The readable name of what a plan labels so, `accuracy_best/pgd20` or `spectrum_best`."""
    what, network = _measured(label)
    name = column_name(Metric.from_run(label).name) if Metric.from_run(label).accuracy else what
    return name if network == "last" else f"{name} of {network}"


def failure_words(lacking: Sequence[str], reason: str | None) -> str:
    """What failed, and why: `transfer failed: expected ..., got ...`.

    Args:
        lacking: Labels of what could not be measured, as plans have them.
        reason: As storage has it; of one it begins with its name.
    """
    told = reason or "unknown"
    what = {_measured(label)[0] for label in lacking}
    if len(what) == 1:
        told = told.removeprefix(f"{what.pop()}: ")
    return f"{listed([measurement_name(label) for label in lacking], _NAMED)} failed: {told}"


def _measured(label: str) -> tuple[str, str]:
    metric = Metric.from_run(label)
    return (metric.column, metric.network) if metric.accuracy else from_analysis_label(label)
