"""Names of metrics that need no torch to be known: which MLflow takes, and what a training logs by epoch."""

from __future__ import annotations

import posixpath
import re

LONGEST_NAME = 200
"""MLflow takes 250 characters, of which prefixes like `accuracy_adaptive_best/` need some."""

CURVES = (
    *("train/loss", "train/accuracy_attack", "train/accuracy_natural", "learning_rate", "seconds", "images_per_second"),
    *("energy/ratio", "energy/lfi", "energy/hfi", "fat/mask_min", "fat/mask_mean"),
    *("validation/natural", "validation/attack", "validation/robust"),
)
"""What the history of a training can have, by epoch."""

EVERY_EPOCH = "energy/ratio"
"""The curve that begins at epoch 0, before the first step, and has every epoch since: it tells how far one is."""

OF_LAST_EPOCH = ("energy/", "fat/")
"""Curves whose last value is a number of the table too."""

_TAKEN = re.compile(r"[/\w.\- :]+")


def refused(name: str) -> str | None:
    """Why a name can be no metric's: MLflow would refuse it after everything was trained.

    Args:
        name: Of a column, or of a scalar.

    Returns:
        `expected ..., got ...`, with the nearest name that can; None for a good one.
    """
    if not _TAKEN.fullmatch(name):
        usable = re.sub(r"[^/\w.\- :]", "", name).strip("/. ")
        hint = f"; did you mean {usable!r}?" if usable else ""
        return f"expected a name of letters, digits, _ - . : / and spaces, as MLflow takes it, got {name!r}{hint}"
    if posixpath.normpath(name) != name or name.startswith(("..", "/")) or name == ".":
        return f"expected a name that is no path to elsewhere, as MLflow takes it, got {name!r}"
    if len(name) > LONGEST_NAME:
        return f"expected a name of at most {LONGEST_NAME} characters, got {len(name)}: {name[:40]!r}..."
    return None
