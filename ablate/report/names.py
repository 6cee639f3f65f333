"""How metrics are called where people read them."""

from __future__ import annotations

import re

from ablate.spaces.metrics import Metric

COLUMN_NAMES = {
    "natural": "Natural",
    "gn": "GN",
    "fgsm": "FGSM",
    "pgd20": "PGD-20",
    "bim20": "BIM-20",
    "tpgd20": "TPGD-20",
    "cw20": "CW-20",
    "cw20_exact": "CW-20 exact",
    "energy/ratio": "R = LFI/HFI",
    "spectrum/central_energy_share": "Central energy share",
    "first_kernels/channel_similarity": "Channel similarity",
    "first_kernels/smoothness": "First kernels' smoothness",
    "kernel_spectra/high_frequency_share": "High-frequency share",
    "kernel_spectra/smoothness": "Kernels' smoothness",
    "cka/shallow_deep": "CKA shallow-deep",
    "quantized_kernels/smoothness": "Quantized kernels' smoothness",
}

_GROUP = re.compile(r"_group(\d+)$")
"""How the metrics of one layer group end; group 0 is the first convolution."""


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
    return COLUMN_NAMES.get(metric, metric)
