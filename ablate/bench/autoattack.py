"""AutoAttack's standard version, from an empty storage, beside pyautoattack in one run.

There is no warm-up: a run takes minutes, and what a first call costs is nothing beside it.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import torch

from ablate.attacks import CleanLogits, Ensemble, build_attack, evaluate_ensemble
from ablate.bench.cases import CLASSES, IMAGE_SIZE, SEARCHES, Case, Result, random_dataset
from ablate.bench.timing import Timed, alternately
from ablate.learning.models import build_network, frozen_parameters
from ablate.learning.models.folding import as_measured, as_searched
from ablate.learning.precision import memory_format
from ablate.spaces.specs import MeasurementSpec

RIVAL = "pyautoattack"


def standard() -> Ensemble:
    """The column `aa` with its usual settings."""
    attack = build_attack("aa", MeasurementSpec())
    assert isinstance(attack, Ensemble)
    return attack


def rival() -> Any:
    """pyautoattack where it is installed, else None."""
    try:
        return importlib.import_module(RIVAL)
    except ImportError:
        return None


def time_autoattack(case: Case, images: int, rounds: int, device: torch.device) -> Result:
    """Time `aa` on images that the network is right on, so that every image is attacked.

    Args:
        case: With `what` of `aa`.
        images: Test images.
        rounds: Measurements.
        device: Where.

    Returns:
        Ours, and pyautoattack's where it is installed, with as many images at once.
    """
    pixels = torch.from_numpy(random_dataset(images).train_images).to(device)
    plain = build_network(case.model, CLASSES, IMAGE_SIZE, 0).to(device).eval()
    floats = pixels.float() / 255
    with torch.no_grad():
        labels = plain(floats).argmax(1)
    layout = memory_format(device, "float32")
    network = build_network(case.model, CLASSES, IMAGE_SIZE, 0)
    network.to(device, memory_format=layout).eval()  # type: ignore[call-overload]
    attack = standard()
    arranged = pixels.contiguous(memory_format=layout)

    def ours(precision: str) -> None:
        with frozen_parameters(network):
            asked = as_measured(network, IMAGE_SIZE)
            search = as_searched(network, IMAGE_SIZE, precision)
            clean = CleanLogits(asked, arranged, case.batch_size)
            how: dict[str, Any] = {"seed": 0, "batch_size": case.batch_size, "clean": clean, "search": search}
            evaluate_ensemble(asked, attack, arranged, labels, **how)

    contestants: dict[str, Callable[[], object]] = {mode: functools.partial(ours, mode) for mode in SEARCHES}
    library = rival()
    if library is not None:
        theirs = library.AutoAttack(plain, eps=attack.eps_255 / 255, seed=0, device=device, version="standard")
        contestants[RIVAL] = lambda: theirs.run_standard_evaluation(floats, labels, batch_size=case.batch_size)
    timed = {name: Timed(taken, math.nan) for name, taken in alternately(contestants, rounds, device).items()}
    return Result(case, {mode: timed.pop(mode) for mode in SEARCHES}, timed)
