"""What a launch is asked for, as the command line and notebooks give it; nothing heavy is imported here."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ablate.core.errors import SpecError

MOST_SEEDS = 100_000
"""Of one range: a slip of the keyboard is told instead of planned."""


@dataclass
class Options:
    """What the command line asked for; `python -m ablate.launch --help` says what each is.

    Args:
        space: Names or paths of spaces, or `all`.
        preset: Name of the preset.
        sets: `path=value` each.
        seeds: Every row with each.
        storage: Folder or bucket.
        data_root: Folder for downloaded data.
        tracking_uri: Of MLflow; none: `MLFLOW_TRACKING_URI`, else `mlflow.db` here.
        tracking: Whether MLflow is told at all.
        local: In this process, without Ray.
        cpus_per_trial: CPU cores of a training; none: an equal share.
        gpus_per_trial: GPUs of a training; `auto`: a share by its network; none: one where there are any.
        max_concurrent: Trainings at once; 0: all that fit.
        max_failures: How often a lost process is started again.
        retry_failed: Whether failed trainings are tried again.
        prune: Whether checkpoints of finished trainings are dropped.
        dry_run: Only show the plan.
        as_json: Print JSON for scripts: the plan with `dry_run`, else the results.
        imports: The user's own modules.
        cluster: Job server to submit to.
        storage_is_shared: With `cluster`: every node mounts the storage folder.
        include: With `cluster`: files and folders to send that are no Python of `imports`.
        yes: Go on also where it would take more than a day.
    """

    space: list[str]
    preset: str = "paper"
    sets: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    rows: list[str] = field(default_factory=list)
    storage: str = "./storage"
    data_root: Path = Path("data")
    tracking_uri: str | None = None
    tracking: bool = True
    local: bool = False
    cpus_per_trial: int | None = None
    gpus_per_trial: float | Literal["auto"] | None = None
    max_concurrent: int = 0
    max_failures: int = 2
    retry_failed: bool = False
    prune: bool = False
    dry_run: bool = False
    as_json: bool = False
    imports: list[str] = field(default_factory=list)
    cluster: str | None = None
    storage_is_shared: bool = False
    include: list[str] = field(default_factory=list)
    yes: bool = False


def parse_gpus(text: str | None) -> float | Literal["auto"] | None:
    """`--gpus-per-trial`: a number, or `auto`.

    Args:
        text: As given; none: not given.

    Returns:
        GPUs of a training.

    Raises:
        SpecError: Anything else; Ray takes a part of one GPU, or several whole ones.
    """
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    try:
        gpus = float(text)
    except ValueError:
        gpus = -1.0
    if not 0 <= gpus < math.inf or (gpus > 1 and gpus != int(gpus)):
        raise SpecError(f"--gpus-per-trial: expected auto, a part of 1 like 0.25, or a whole number, got {text!r}")
    return gpus


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` or `0-2` as numbers.

    Args:
        text: Whole numbers from 0 up, and ranges of them, with commas between; each number once.

    Returns:
        The seeds, in their order.

    Raises:
        SpecError: Anything else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part, re.ASCII)
        if found is None:
            raise SpecError(f"--seeds: expected whole numbers from 0 up, like 0,1,2 or 0-2, got {text[:80]!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < first + MOST_SEEDS:
            expected = f"a range from a smaller to a larger number, of at most {MOST_SEEDS}"
            raise SpecError(f"--seeds: expected {expected}, got {part.strip()!r}")
        seeds += range(first, last + 1)
    if len(set(seeds)) != len(seeds):
        raise SpecError(f"--seeds: expected distinct numbers, got {text!r}")
    return seeds
