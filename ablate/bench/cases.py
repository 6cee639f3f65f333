"""What is timed: a step of adversarial training, and each column of a table, ours beside the textbook's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from ablate.attacks import CleanLogits, build_attack, evaluate
from ablate.bench import textbook
from ablate.bench.timing import Timed, in_turn, steady
from ablate.core import modes
from ablate.learning.cost import STEP_COST, forward_flops, image_cost
from ablate.learning.data import Dataset
from ablate.learning.models import build_network, frozen_parameters
from ablate.learning.models.folding import as_measured, as_searched
from ablate.learning.precision import memory_format
from ablate.learning.training import TrainingRun
from ablate.learning.turns import OwnRandomNumbers, OwnStream, convolutions_in
from ablate.spaces.networks import asked_of_training
from ablate.spaces.specs import COLUMNS, MeasurementSpec, ModelSpec, TrialSpec

CLASSES, IMAGE_SIZE = 10, 32
MODES = ("float32", "float32+compile", "tf32", "tf32+compile", "bfloat16", "bfloat16+compile")
"""Precision and compilation of training, as `mode` names them."""

SEARCHES = ("float32", "bfloat16")
"""Of `measurement.precision`."""

AUTOATTACK_PASSES = 10_000
"""Forward passes, roughly, that an image costs which withstands AutoAttack."""


@dataclass(frozen=True)
class Case:
    """One thing that is timed.

    Args:
        model: The network.
        batch_size: Images at once.
        what: `step`, a column's name, or `columns` for all seven.
    """

    model: ModelSpec
    batch_size: int
    what: str

    @property
    def label(self) -> str:
        """The network in words, `resnet20 4-bit FAT`."""
        quantization = self.model.quantization
        parts = [self.model.arch]
        if self.model.activation != "relu":
            parts.append(self.model.activation)
        if quantization.bits < 32:
            parts.append(f"{quantization.bits}-bit")
        if quantization.fat:
            parts.append("FAT")
        return " ".join(parts)

    @property
    def flops(self) -> float:
        """Of one image, as `ablate.learning.cost` counts them."""
        forward = forward_flops(self.model, IMAGE_SIZE, CLASSES)
        if self.what == "step":
            return forward * image_cost(TrialSpec())
        if self.what == "aa":
            return forward * AUTOATTACK_PASSES
        steps = {"natural": 0, "gn": 0, "fgsm": 1, "columns": 81}.get(self.what, 20)
        return forward * (STEP_COST * steps + (7 if self.what == "columns" else 1))


@dataclass(frozen=True)
class Result:
    """What came out.

    Args:
        case: What was timed.
        ours: By mode of training; of measuring, by `measurement.precision`.
        theirs: By whose and how: `torchattacks`, `written out`, and each in `IEEE` where torch's defaults are not.
        operations: Of torch, that the host hands out for a step; of what is not compiled.
    """

    case: Case
    ours: dict[str, Timed]
    theirs: dict[str, Timed]
    operations: Mapping[str, int] = field(default_factory=dict)


def time_step(case: Case, modes_: Sequence[str], rounds: int, device: torch.device) -> Result:
    """Time one step of PGD-7 adversarial training with its update.

    Args:
        case: With `what` of `step`.
        modes_: Of `MODES`.
        rounds: Measurements of each.
        device: Where.

    Returns:
        Ours in each mode, and the textbook's.
    """
    ours = {mode: training_step(case.model, case.batch_size, mode, device) for mode in modes_}
    dataset = random_dataset(case.batch_size)
    images = torch.from_numpy(dataset.train_images).to(device).float() / 255
    labels = torch.from_numpy(dataset.train_labels).to(device)
    theirs: dict[str, Callable[[], Any]] = {}
    for whose, pgd in textbook.pgds().items():
        network = build_network(case.model, CLASSES, IMAGE_SIZE, 0).to(device)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        step = textbook.training_step(network, optimizer, pgd(network, 7))
        theirs |= textbook.settings(whose, lambda step=step: step(images, labels), device)  # type: ignore[misc]
    return _timed(case, ours, theirs, rounds, device)


def _timed(
    case: Case,
    ours: Mapping[str, Callable[[], Any]],
    theirs: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: torch.device,
) -> Result:
    streams, repeats = {}, {}
    for name, work in {**theirs, **ours}.items():
        streams[name], repeats[name] = steady(work, device)
    timed = in_turn(streams, rounds, device)
    each = {name: found.over(repeats[name]) for name, found in timed.items()}
    counted = {
        name: operations_of(work)
        for name, work in {**theirs, **ours}.items()
        if case.what == "step" and "compile" not in name
    }
    return Result(case, {name: each[name] for name in ours}, {name: each[name] for name in theirs}, counted)


def training_step(
    model: ModelSpec, batch_size: int, mode: str, device: torch.device, settings: Mapping[str, Any] | None = None
) -> Callable[[], None]:
    """The training loop's own step on a batch of random images, with new random numbers each time.

    Args:
        model: The network.
        batch_size: Images.
        mode: Of `MODES`.
        device: Where.
        settings: Of training, where they are not the defaults.
    """
    precision, _, compiled = mode.partition("+")
    training = {**(settings or {}), "batch_size": batch_size, "precision": precision, "compile": bool(compiled)}
    spec = TrialSpec.model_validate({"model": model.model_dump(mode="json"), "training": training})
    with convolutions_in(precision):
        run = TrainingRun(spec, random_dataset(batch_size), device, keeps=asked_of_training(spec))
    batch = torch.arange(batch_size, device=device)
    own, stream = OwnRandomNumbers(device), OwnStream(device)
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        with own.turn(), stream.turn(), convolutions_in(precision):
            run.update(1, count, batch)

    run.set_learning_rate(1)
    return step


def time_columns(case: Case, images: int, rounds: int, device: torch.device) -> Result:
    """Time a column, or all seven with what they share.

    Args:
        case: With `what` of a column or `columns`.
        images: Test images.
        rounds: Measurements.
        device: Where.

    Returns:
        Ours, and torchattacks' (for `pgd20` and `bim20` the textbook's where it is not installed).
    """
    names = COLUMNS if case.what == "columns" else (case.what,)
    dataset = random_dataset(images)
    pixels = torch.from_numpy(dataset.train_images).to(device)
    layout = memory_format(device, "float32")
    pixels = pixels.contiguous(memory_format=layout)
    labels = torch.from_numpy(dataset.train_labels).to(device)
    network = build_network(case.model, CLASSES, IMAGE_SIZE, 0)
    network.to(device, memory_format=layout).eval()  # type: ignore[call-overload]
    spec = MeasurementSpec(batch_size=case.batch_size)
    attacks = [build_attack(name, spec) for name in names]

    def ours(precision: str) -> None:
        with frozen_parameters(network):
            asked = as_measured(network, IMAGE_SIZE)
            search = as_searched(network, IMAGE_SIZE, precision)
            clean = CleanLogits(asked, pixels, case.batch_size)
            for attack in attacks:
                evaluate(asked, attack, pixels, labels, seed=0, batch_size=case.batch_size, clean=clean, search=search)

    plain = build_network(case.model, CLASSES, IMAGE_SIZE, 0).to(device).eval()
    whose = "written out" if textbook.torchattacks_module() is None else "torchattacks"
    written = textbook.columns(plain)
    floats = pixels.contiguous().float() / 255
    batches = list(zip(torch.split(floats, case.batch_size), torch.split(labels, case.batch_size), strict=True))

    def theirs() -> None:
        for name in names:
            for part, truth in batches:
                textbook.accuracy(plain, written[name](part, truth), truth)

    rivals: dict[str, Callable[[], Any]] = {}
    if all(name in written for name in names):
        rivals = textbook.settings(whose, theirs, device)
    with modes.evaluating(network):
        return _timed(case, {mode: partial(ours, mode) for mode in SEARCHES}, rivals, rounds, device)


def random_dataset(count: int) -> Dataset:
    """Random images with the ten labels in turn.

    Args:
        count: Training images.

    Returns:
        The data set; its test split is the first ten.
    """
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    names = tuple(str(number) for number in range(CLASSES))
    return Dataset("random", "random images", names, images, labels, images[:CLASSES], labels[:CLASSES])


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Another view of the same memory computes nothing, nor does the profiler's own.
        self.count += bool(not func.is_view and func.namespace == "aten")
        return func(*args, **(kwargs or {}))


def operations_of(work: Callable[[], Any]) -> int:
    """Operations of torch in a piece of work; replaying a graph is none, filling what it reads one for each.

    Args:
        work: Done once; not compiled, which would compile anew for the count.
    """
    counting = _Counting()
    with counting:
        work()
    return counting.count
