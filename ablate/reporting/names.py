"""How metrics are called where people read them."""

from __future__ import annotations

from ablate.claims import ADAPTIVE

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
}


def column_name(metric: str) -> str:
    """The readable name of a metric.

    Args:
        metric: A name as claims and results use it.

    Returns:
        As the paper prints it where it does (`PGD-20`), with `adaptive` behind for an adaptive column; an unknown
        metric keeps its name.
    """
    if metric.startswith(ADAPTIVE):
        return f"{column_name(metric.removeprefix(ADAPTIVE))} adaptive"
    return COLUMN_NAMES.get(metric, metric)
