"""Trainings of no work: everything of a launch but what a network's training and its attacks compute.

Installed in the processes of launches, by `VARIABLE` in their environment. What is made up is the same for the same
training and measurement, and has the names, shapes and files of what it stands for. Analyses run for real, on a network
of one layer and a few images. Trainings run in the launch's own process: Ray has tests of its own.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

VARIABLE = "TESTS_NO_WORK"

IMAGES = 24
"""Test images that are pretended to be attacked."""

SHOWN = 4
"""Images that analyses look at."""

EPOCH_S = 7_200.0
"""What an epoch says that it took, so that budgets of hours are used up by few trainings."""

ALL = ("batch_size", "bit_width")
"""The shipped spaces that "all" means: of all of them the figures alone take a minute."""

EASY = {"natural": 0.8, "tpgd20": 0.9, "gn": 0.75, "fgsm": 0.5}
"""What share of the images withstands which attack; of others 0.4."""


def install_where_asked(module: str = "") -> None:
    """In a process that is to do no work.

    Args:
        module: That it runs.
    """
    if VARIABLE not in os.environ:
        return
    if module == "mlflow":
        serve_nothing()
    elif module == "ablate.bench":
        time_nothing()
    else:
        train_nothing()


def replaced(place: Any, **stubs: Any) -> None:
    """Put stubs in the place of what is there."""
    for name, stub in stubs.items():
        getattr(place, name)  # else the work would be done
        setattr(place, name, stub)


def serve_nothing() -> None:
    """MLflow's pages: which database they would show."""
    import mlflow.server

    replaced(mlflow.server, _run_server=lambda **asked: print(f"pages of {asked['file_store_path']}"))


def time_nothing() -> None:
    """Speeds by nobody's clock."""
    from ablate.bench import cases, machine, packing
    from ablate.bench.timing import Timed

    one = Timed((0.5, 0.5), 2.0**20)

    def timed(case: Any, *_: Any) -> Any:
        return cases.Result(case, {"float32": one}, {"torchattacks": one, "written out": one})

    def packed(model: Any, batch: int, count: int, mode: str, device: Any) -> Any:
        label = cases.Case(model, batch, "step").label
        return packing.Packed(label, model.model_dump(mode="json"), mode, batch, count, 100.0 * count, 2**20)

    replaced(cases, time_step=timed, time_columns=timed)
    replaced(machine, matmul_peak=lambda *_: 1e12)
    replaced(packing, time_packed=packed)


def train_nothing() -> None:
    """Trainings and measurements, and the checksums of data."""
    from ablate import spaces
    from ablate.execution import worker
    from ablate.launch import session
    from ablate.spaces import presets

    for place in (spaces, presets):
        replaced(place, space_names=lambda: list(ALL))

    replaced(
        worker,
        train_in_turns=train_in_turns,
        build_network=lambda *_: Anything(),
        as_measured=lambda network, size: network,
        evaluate=evaluate,
        evaluate_ensemble=evaluate_ensemble,
        analyse=analyse_cheaply(worker.analyse),
        transferred=transferred,
    )
    # In this process, where Ray would take longer to start than all of this; and with GPUs for whoever asks.
    real = session.open_executor
    replaced(
        session,
        open_executor=lambda local, resources, *more: real(True, replace(resources, gpus=0), *more),
        check_reach=lambda *_: None,
        DAY_S=float("inf"),  # who is asked about a launch of days says yes
    )
    from torchvision.datasets import cifar, svhn

    # The files are a few made-up images, not those that the checksums are of.
    cifar.check_integrity = lambda *_: True
    svhn.SVHN._check_integrity = lambda self: True


class Anything(nn.Module):
    """A network of one layer, which takes any weights for its own."""

    def __init__(self, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv2(torch.relu(self.norm(self.conv(images))))
        answer: Tensor = self.last(torch.relu(hidden).mean(dim=(2, 3)))
        return answer

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        return None


def chance(*what: object) -> float:
    """A number of [0, 1) that hangs on what it is asked for."""
    return zlib.crc32(repr(what).encode()) / 2**32


def train_in_turns(
    spec: Any,
    dataset: Any,
    *,
    state: Any = None,
    keep: Iterable[str] | None = None,
    on_epoch: Callable[[Any], None] = lambda state: None,
    **_: Any,
) -> Any:
    """See `ablate.learning.training`: the first and the last epoch alone are stored."""
    from ablate.core.text import now_ms
    from ablate.learning.models import build_network
    from ablate.learning.state import TrainingState

    epochs, asked = spec.training.epochs, tuple(keep or ())
    size = spec.data.image_size
    weights = {"nothing": torch.zeros(1)}
    if spec.model.arch == "resnet20":  # which notebooks are shown to load
        weights = build_network(spec.model, len(dataset.classes), size, spec.seed).state_dict()
    history: list[dict[str, Any]] = []
    for epoch in sorted({0, epochs // 3, 2 * epochs // 3, epochs}):
        history.append({"epoch": epoch, "timestamp_ms": now_ms(), "metrics": metrics_of(spec, epoch)})
        if state is None or epoch == epochs:
            best = None
            if spec.data.validation and epoch:
                best = {"epoch": epoch, "accuracy": 50.0, "network": weights}
            kept = {name: {"epoch": epoch, "network": weights} for name in asked} if epoch == epochs else {}
            state = TrainingState(epoch, weights, {}, list(history), best, list(asked), {}, kept)
            on_epoch(state)
        yield
    return state


def metrics_of(spec: Any, epoch: int) -> dict[str, float]:
    """Of an epoch, by the names that trainings log."""
    done = epoch / max(1, spec.training.epochs)
    found = {"energy/ratio": 1 + done, "energy/lfi": 2.0 + done, "energy/hfi": 2.0, "train/accuracy_natural": 70 * done}
    if epoch:
        found |= {"train/loss": 2.3 - done, "train/accuracy_attack": 50 * done, "learning_rate": 0.1}
        found |= {"seconds": EPOCH_S, "images_per_second": 5e7 / spec.data.image_size**2}
    if spec.data.validation:
        better = 10 * chance(spec.training.learning_rate, spec.training.attack.eps_255)
        found |= {
            "validation/natural": 60 * done,
            "validation/attack": 40 * done,
            "validation/robust": 30 * done + better,
        }
    if spec.model.quantization.fat:
        found |= {"fat/mask_mean": 0.5}
    return found


def right(share: float, count: int, *what: object) -> Tensor:
    """Which of `count` images are classified correctly, about so many of them."""
    return torch.tensor([(place + 1) / (count + 1) <= share + 0.04 * chance(*what) for place in range(count)])


def evaluate(network: Any, attack: Any, images: Tensor, labels: Tensor, *, seed: int, filters: Any, **_: Any) -> Any:
    """See `ablate.attacks.evaluate`."""
    share = EASY.get(attack.name, 0.4)
    return {seen: right(share, len(images), attack.name, seed, repr(seen)) for seen in filters}


def evaluate_ensemble(network: Any, whole: Any, images: Tensor, labels: Tensor, **asked: Any) -> Any:
    """See `ablate.attacks.ensemble`."""
    from ablate.attacks.ensemble import NOBODY, EnsembleOutcome

    found = evaluate(network, whole, images, labels, seed=asked["seed"], filters=asked["filters"])
    parts = tuple(len(images) for _ in whole.parts)
    by = {seen: torch.where(correct, NOBODY, 0).to(torch.int8) for seen, correct in found.items()}
    return {seen: EnsembleOutcome(correct, by[seen], parts) for seen, correct in found.items()}


def analyse_cheaply(real: Callable[..., Any]) -> Callable[..., Any]:
    """An analysis of a network of one layer, once for each that is asked for in this process."""
    known: dict[str, Any] = {}

    def analyse(measurement: Any, seen: Any, progress: Any) -> Any:
        what = f"{measurement.name} {measurement.settings!r} {seen.images.shape[-1]}"
        if what not in known:
            torch.manual_seed(0)
            network = Anything(seen.images.shape[1]).eval()
            few = {"images": seen.images[:SHOWN], "labels": seen.labels[:SHOWN] % 10, "examples": {}}
            of_one_layer = replace(seen, network=network, asked=network, corrupted=None, **few)
            known[what] = real(measurement, of_one_layer, progress)
        return replace(known[what], key=measurement.key, meta=dict(known[what].meta))

    return analyse


def transferred(same: Any, made_on: Any, network: Any, images: Tensor, *_: Any) -> Any:
    """See `ablate.execution.transfer`."""
    from ablate.storage.records import Record

    records = []
    for measurement in same:
        correct = right(0.5, len(images), measurement.name).numpy().astype(np.bool_)
        meta = {"what": measurement.name, "made_on": made_on.training, "images": len(correct)}
        records.append(Record(measurement.key, {"accuracy": 100.0 * float(correct.mean())}, {"correct": correct}, meta))
    return records
