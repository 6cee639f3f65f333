"""Adversarial and natural training of one network, from its first weights or from the state after any epoch.

All images stay on the device as uint8 and nothing waits for it within an epoch. The numbers are a function of the spec,
the data and the state: on the CPU in float32 they are the same bits, resumed or not.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ablate.attacks.base import full_precision
from ablate.attacks.evaluation import as_float
from ablate.attacks.linf import ANY, PIXELS, ascend, divergence_from
from ablate.core import randomness
from ablate.core.errors import SpecError
from ablate.core.text import now_ms
from ablate.learning.attack_start import start_of
from ablate.learning.augmentation import AugmentationFunction, crop_and_flip, get_augmentation
from ablate.learning.averages import RECALIBRATED_ON, Average, holding
from ablate.learning.compiling import compiled_code, forget_unless_shared
from ablate.learning.data import Dataset, split_validation
from ablate.learning.draws import Ahead, Draws
from ablate.learning.graphs import StepGraphs
from ablate.learning.models import build_network, frozen_parameters, parameter_groups, transformed_weights
from ablate.learning.models.calibration import estimating_anew
from ablate.learning.models.folding import FoldedNetwork, InParts, as_measured, fold_normalization
from ablate.learning.monitoring import PROBE_IMAGES, Validation, probe_metrics
from ablate.learning.objectives import (
    Batch,
    Loss,
    binary_cross_entropy,
    cross_entropy,
    get_objective,
    moved_weights,
    perturbable,
    put_back,
    refuse_mixed_labels,
    traits,
)
from ablate.learning.precision import memory_format, slower_than_asked
from ablate.learning.resident import Resident, resident
from ablate.learning.state import TrainingError, TrainingState, copied
from ablate.learning.turns import OwnRandomNumbers, OwnStream, Turns, convolutions_in, finish, seeded, within
from ablate.spaces.networks import AverageName, asked_of_training, can_have
from ablate.spaces.specs import TrialSpec


def train(
    spec: TrialSpec,
    dataset: Dataset,
    *,
    device: torch.device,
    state: TrainingState | None = None,
    keep: Iterable[str] | None = None,
    on_epoch: Callable[[TrainingState], None] = lambda state: None,
    warn: Callable[[str], None] = lambda line: None,
) -> TrainingState:
    """Train a network to the last epoch.

    Each epoch visits the training images once, in a new order. Its last batch may be smaller than the others, and its
    loss is the mean over its own images; a rest of a single image, which batch normalization cannot normalize, joins
    no batch.

    Metrics of an epoch: `train/loss` and `train/accuracy_attack` (percent, over the examples trained on, while
    training; of mixed labels the dominant one counts), `learning_rate`, `seconds` and `images_per_second` (of training
    alone), those of `probe_metrics` on the first 512 of the images trained on, and those of `Validation`. The entry of
    epoch 0 has the probe and the validation only.

    Args:
        spec: The trial; its measurement plays no part.
        dataset: From `ablate.learning.data.load` of `spec.data`; the test split plays no part.
        device: Where to train.
        state: Where to go on; None: from the first weights.
        keep: Names of networks to keep, as keys call them; those that it was begun too late for, it leaves out. None:
            what the spec asks for.
        on_epoch: Called with the state before the first epoch and after each one, but not with the `state` given. It
            may keep what it gets.
        warn: Told in a line what does not run as fast as it could.

    Raises:
        TrainingError: The loss or an output is not finite.
        SpecError: A name nobody registered, or a batch larger than the images to train on.
    """
    return finish(train_in_turns(spec, dataset, device=device, state=state, keep=keep, on_epoch=on_epoch, warn=warn))


def train_in_turns(
    spec: TrialSpec,
    dataset: Dataset,
    *,
    device: torch.device,
    state: TrainingState | None = None,
    keep: Iterable[str] | None = None,
    on_epoch: Callable[[TrainingState], None] = lambda state: None,
    warn: Callable[[str], None] = lambda line: None,
) -> Turns[TrainingState]:
    """As `train`, one update a turn, and the same bits whatever else takes turns in this process.

    On a GPU each training has a stream of its own, so that what several have queued overlaps.
    """
    own, stream = OwnRandomNumbers(device), OwnStream(device)

    @contextmanager
    def turn() -> Iterator[None]:
        with own.turn(), stream.turn(), convolutions_in(spec.training.precision):
            yield

    try:
        with compiled_code(spec.training.compile):
            return (yield from within(turn, _train(spec, dataset, device, warn, state, keep, on_epoch)))
    finally:
        stream.leave()
        if device.type == "cuda":
            # The memory of graphs outlives them, and measuring may need it.
            torch.cuda.empty_cache()


def _train(
    spec: TrialSpec,
    dataset: Dataset,
    device: torch.device,
    warn: Callable[[str], None],
    state: TrainingState | None,
    keep: Iterable[str] | None,
    on_epoch: Callable[[TrainingState], None],
) -> Turns[TrainingState]:
    asked = asked_of_training(spec) if keep is None else keep
    run = TrainingRun(spec, dataset, device, warn, keeps=_to_keep(asked, state))
    try:
        if state is None:
            state = run.snapshot(0, run.measured(0), [], None)
            on_epoch(state)
        else:
            run.restore(state)
        for epoch in range(state.epoch + 1, run.training.epochs + 1):
            metrics = (yield from run.epoch(epoch)) | run.measured(epoch)
            state = run.snapshot(epoch, metrics, state.history, state.best)
            on_epoch(state)
        return state
    finally:
        if run.graphs is not None:
            run.graphs.release()


def _to_keep(asked: Iterable[str], state: TrainingState | None) -> list[str]:
    """What was kept so far, and what is asked for and not begun too late."""
    if state is None:
        return list(dict.fromkeys(asked))
    return list(dict.fromkeys([*state.keeps, *(name for name in asked if can_have(name, state.keeps, state.epoch))]))


class TrainingRun:
    """One training in this process: network, optimizer and images on the device."""

    def __init__(
        self,
        spec: TrialSpec,
        dataset: Dataset,
        device: torch.device,
        warn: Callable[[str], None] = lambda line: None,
        keeps: Sequence[str] = (),
    ) -> None:
        self.keeps, self.kept = list(keeps), dict[str, dict[str, Any]]()
        self.spec, self.training, self.device = spec, spec.training, device
        self.layout = memory_format(device, spec.training.precision)
        self.draws = Ahead(spec.seed, device).draws
        note = slower_than_asked(spec.training.precision, device)
        if note is not None:
            warn(note)
        self.classes = len(dataset.classes)
        trained_on, held_out = split_validation(dataset.train_labels, spec.data.validation)
        if self.training.batch_size > len(trained_on):
            raise SpecError(
                f"expected training.batch_size of at most the {len(trained_on)} training images of {dataset.label}, "
                f"got {self.training.batch_size}"
            )
        self.augment: AugmentationFunction = get_augmentation(self.training.augmentation.name)
        self.objective, self.traits = get_objective(self.training.objective), traits(self.training.objective)
        given = self.training.objective_weight
        self.weight = self.traits.weight if given is None else given

        def placed(places: npt.NDArray[np.int64]) -> Resident:
            return resident(dataset.train_images, dataset.train_labels, places, device, self.layout)

        self.resident = [placed(trained_on)]
        self.images, self.labels = self.resident[0].images, self.resident[0].labels
        refuse_mixed_labels(self.training, spec.seed, as_float(self.images[:2]), self.labels[:2], self.classes)
        network = build_network(spec.model, self.classes, spec.data.image_size, spec.seed)
        self.network: nn.Module = network.to(device, memory_format=self.layout)  # type: ignore[call-overload]
        self.validation: Validation | None = None
        if len(held_out):
            self.resident.append(placed(held_out))
            images, labels = self.resident[1].images, self.resident[1].labels
            # On a CPU the network itself is asked: the last bits of its accuracies are those of earlier versions.
            measured = as_measured(self.network, spec.data.image_size) if device.type == "cuda" else None
            self.validation = Validation(images, labels, held_out, self.training.attack, spec.seed, measured)
        self.perturbable = perturbable(self.network)
        names = dict.fromkeys(replace(name, best=False) for name in map(AverageName.parse, keeps) if name)
        self.averages = [Average(name, self.network) for name in names]
        self.optimizer = torch.optim.SGD(
            parameter_groups(self.network, self.training, spec.model),
            momentum=self.training.momentum,
            fused=True if device.type == "cuda" else None,
        )
        self.graphs = StepGraphs(self, warn=warn) if device.type == "cuda" else None
        self.folded: FoldedNetwork | None = None
        self.asked: nn.Module = self.network  # by the attack
        if self.training.attack.name != "none" and self.training.attack.network_mode == "eval":
            # Autocast would cast its weights at every use.
            dtype = torch.bfloat16 if self.training.precision == "bfloat16" else None
            self.folded = fold_normalization(self.network, spec.data.image_size, dtype)
            self.asked = InParts(self.folded or self.network)
        self.compiled: Callable[[Tensor], Tensor] = self.network
        if self.training.compile:
            forget_unless_shared()
            if device.type == "cpu":
                # Compiling imports it, and it warns that there is no GPU, which nobody asked for.
                logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
            self.compiled = torch.compile(self.network, dynamic=False)
            if isinstance(self.asked, InParts):
                with self.precision():
                    self.asked.compile_for(self.images[: self.training.batch_size])

    def restore(self, state: TrainingState) -> None:
        """Go on from a state."""
        self.network.load_state_dict(state.network)
        # The optimizer would go on with the very tensors of the state, and change them.
        kinds = [group["fused"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(copy.deepcopy(state.optimizer))
        for group, fused in zip(self.optimizer.param_groups, kinds, strict=True):
            group["fused"] = fused  # this device's, whichever wrote the state
        self.kept = dict(state.kept)
        for average in self.averages:
            if str(average.name) in state.averages:  # else it is still to begin
                average.restore(state.averages[str(average.name)])
        if f"epoch:{state.epoch}" in self.keeps:
            self.kept[f"epoch:{state.epoch}"] = {"epoch": state.epoch, "network": state.network}

    def rate_of(self, group: dict[str, Any], epoch: int, progress: float = 0.0) -> float:
        """A parameter group's learning rate at a moment of an epoch from 1."""
        rate: float = group["initial_lr"] * self.training.learning_rate_at(epoch, progress) / self.training.base_rate
        return rate

    def set_learning_rate(self, epoch: int, progress: float = 0.0) -> float:
        """Set every group's rate to the schedule's; returns the schedule's own."""
        rate = self.training.learning_rate_at(epoch, progress)
        for group in self.optimizer.param_groups:
            value = self.rate_of(group, epoch, progress)
            if self.graphs is None:
                group["lr"] = value
            elif isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)  # where graphs read it
            else:
                group["lr"] = torch.tensor(value, device=self.device)
        return rate

    def snapshot(
        self, epoch: int, metrics: dict[str, float], history: list[dict[str, Any]], best: dict[str, Any] | None
    ) -> TrainingState:
        """The state now, as a copy on the CPU."""
        network = copied(self.network.state_dict())
        accuracy = metrics.get("validation/attack")
        if epoch > 0 and accuracy is not None and (best is None or accuracy > best["accuracy"]):
            best = {"epoch": epoch, "accuracy": accuracy, "network": network}
        entry = {"epoch": epoch, "timestamp_ms": now_ms(), "metrics": metrics}
        optimizer = copied(self.optimizer.state_dict())
        if epoch > 0:
            for group in optimizer["param_groups"]:
                group["lr"] = self.rate_of(group, epoch)  # graphs read a rounded one
        if f"epoch:{epoch}" in self.keeps:
            self.kept[f"epoch:{epoch}"] = {"epoch": epoch, "network": network}
        averages = {str(average.name): copied(average.state()) for average in self.averages}
        history = [*history, entry]
        return TrainingState(epoch, network, optimizer, history, best, list(self.keeps), averages, dict(self.kept))

    def measured(self, epoch: int) -> dict[str, float]:
        """The probe's and the validation's metrics."""
        metrics = probe_metrics(self.network, self.images[:PROBE_IMAGES], self.labels[:PROBE_IMAGES])
        if math.isnan(metrics["train/accuracy_natural"]):
            raise TrainingError(f"the network's outputs became nan or infinite in epoch {epoch}")
        metrics |= self.validation.metrics(self.network) if self.validation else {}
        for average in self.averages:
            if epoch > average.name.start and (self.validation or epoch == self.training.epochs):
                metrics |= self.measured_average(average, epoch)
        return metrics

    def measured_average(self, average: Average, epoch: int) -> dict[str, float]:
        """Keep an average after an epoch: the best one, and the last; returns its validation's metrics by its name."""
        values = average.values()
        if average.name.recalibrated:
            values = self.recalibrated(values, epoch)
        metrics: dict[str, float] = {}
        if self.validation:
            with holding(self.network, values):
                metrics = self.validation.metrics(self.network)
            name, accuracy = str(replace(average.name, best=True)), metrics["validation/attack"]
            if name in self.keeps and accuracy > self.kept.get(name, {"accuracy": -1.0})["accuracy"]:
                self.kept[name] = {"epoch": epoch, "accuracy": accuracy, "network": copied(values)}
        if epoch == self.training.epochs and str(average.name) in self.keeps:
            self.kept[str(average.name)] = {"epoch": epoch, "network": copied(values)}
        return {average.name.curve(metric): value for metric, value in metrics.items()}

    def recalibrated(self, values: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """An average whose batch normalizations are estimated anew, on what the training attack makes of it."""
        seed = self.spec.seed
        order = randomness.permutation(randomness.stream(seed, "recalibration", epoch), len(self.images), self.device)
        size = self.training.batch_size
        batches = torch.split(order, size)[: max(1, min(RECALIBRATED_ON // size, len(order) // size))]
        with (
            holding(self.network, values),
            seeded(randomness.stream(seed, "recalibration layers", epoch), self.device),
        ):
            seen = []
            for number, batch in enumerate(batches):
                # Training draws nothing under these: its epochs begin at 1.
                draws = Draws(seed, -epoch, number, len(batch), self.device)
                with transformed_weights(self.network):
                    _, adversarial, _, _ = self.examples(self.images[batch], self.labels[batch], draws)
                seen.append(adversarial.detach())
            with estimating_anew(self.network), torch.no_grad(), transformed_weights(self.network), self.precision():
                for adversarial in seen:
                    self.network(adversarial.contiguous(memory_format=self.layout))
            return {name: value.clone() for name, value in self.network.state_dict().items()}

    def epoch(self, epoch: int) -> Turns[dict[str, float]]:
        """Visit every training image once, a batch a turn; returns the epoch's metrics of training alone."""
        began = time.perf_counter()
        rate = self.set_learning_rate(epoch)
        for average in self.averages:
            average.begin(epoch)
        order = randomness.permutation(randomness.stream(self.spec.seed, "order", epoch), len(self.images), self.device)
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        seen = 0
        with seeded(randomness.stream(self.spec.seed, "layers", epoch), self.device):
            batches = torch.split(order, self.training.batch_size)
            for step, batch in enumerate(batches):
                if len(batch) == 1:
                    continue
                if self.training.schedule != "milestones":
                    # At the middle of the step: neither the first nor the last one is for nothing.
                    self.set_learning_rate(epoch, (step + 0.5) / len(batches))
                batch_loss, batch_correct = self.update(epoch, step, batch)
                loss += batch_loss * len(batch)
                correct += batch_correct
                seen += len(batch)
                yield
        mean_loss = loss.item() / seen  # here the host waits for the device, once an epoch
        if not math.isfinite(mean_loss):
            raise TrainingError(f"loss became {mean_loss} in epoch {epoch}")
        seconds = time.perf_counter() - began
        return {
            "train/loss": mean_loss,
            "train/accuracy_attack": 100.0 * correct.item() / seen,
            "learning_rate": rate,
            "seconds": seconds,
            "images_per_second": seen / seconds,
        }

    def update(self, epoch: int, number: int, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The step of an epoch on these images, as a graph where there are graphs; returns as `step`."""
        for average in self.averages:
            average.updates += 1
        if self.graphs is not None:
            return self.graphs.step(epoch, number, batch)
        draws = self.draws(epoch, number, len(batch))
        return self.step(self.images[batch], self.labels[batch], draws)

    def step(self, pixels: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """One update on [N, 3, H, W] in [0, 1] and labels [N]; scalars: mean loss, correct answers."""
        training = self.training
        with transformed_weights(self.network):
            images, adversarial, targets, hard = self.examples(pixels, labels, draws)
            loss = self.loss(labels, hard, targets, training.label_smoothing)
            batch = Batch(self.answers, images, adversarial, labels, targets, loss, self.weight)
            self.network.train()
            if not training.awp:
                mean = self.objective(batch)
                torch.autograd.backward(mean)
            else:
                uphill = self.uphill(batch)
        if training.awp:
            batch = Batch(self.answers, images, adversarial, labels, targets, loss, self.weight)
            with moved_weights(self.perturbable, uphill, training.awp), transformed_weights(self.network):
                mean = self.objective(batch)
                torch.autograd.backward(mean)
        self.optimizer.step()
        # At once: of a captured graph the gradients lie where its next run will write.
        self.optimizer.zero_grad(set_to_none=True)
        for average in self.averages:
            average.update()
        return mean.detach(), (batch.adversarial_logits.detach().argmax(dim=1) == targets.argmax(dim=1)).sum()

    def examples(self, pixels: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a step trains on: images [N, 3, H, W], what the attack made of them, targets, and these unmixed."""
        training = self.training
        pixels = crop_and_flip(pixels, draws, padding=training.crop_padding, flip=training.flip)
        clean = as_float(pixels).contiguous(memory_format=self.layout)
        hard = (labels[:, None] == torch.arange(self.classes, device=self.device)).to(clean.dtype)
        images = clean
        if training.augmentation.order == "clean":
            images, targets = self.augment(clean, hard, draws, training.augmentation)
            adversarial = self.attacked(images, self.loss(labels, hard, targets), draws)
        else:
            adversarial = self.attacked(clean, cross_entropy(labels), draws)
            adversarial, targets = self.augment(adversarial, hard, draws, training.augmentation)
        return images, adversarial, targets, hard

    def uphill(self, batch: Batch) -> list[Tensor]:
        """AWP: the objective's gradient, in each weight's shape (arXiv 2004.05884); the network's averages stay."""
        with put_back(self.network.buffers()):
            value = self.objective(batch)
            gradients = torch.autograd.grad(value, self.perturbable, allow_unused=True)
        found = zip(self.perturbable, gradients, strict=True)
        return [torch.zeros_like(weight) if gradient is None else gradient for weight, gradient in found]

    def answers(self, images: Tensor) -> Tensor:
        """Logits [N, classes] in training mode, for an objective."""
        return self.forward(images.contiguous(memory_format=self.layout))

    def loss(self, labels: Tensor, hard: Tensor, targets: Tensor, smoothing: float = 0.0) -> Loss:
        """Of each example, cross-entropy of labels [N] where they were not mixed, else binary of targets [N, K]."""
        if targets is hard:
            return cross_entropy(labels, smoothing)
        return binary_cross_entropy(targets, self.training.augmentation.bce_reduction)

    def attacked(self, images: Tensor, loss: Loss, draws: Draws) -> Tensor:
        """The training attack's examples of [N, 3, H, W], in [0, 1] unless a filter came before."""
        attack, augmentation = self.training.attack, self.training.augmentation
        if attack.name == "none":
            return images
        self.network.train(attack.network_mode == "train")
        images = images.contiguous(memory_format=self.layout)
        diverging = self.traits.attacked == "divergence"
        # What a filter leaves of an image is no image of pixels, and nothing would hold it in their range.
        span = ANY if augmentation.order == "clean" and augmentation.filter is not None else PIXELS
        start, step, ball = start_of(attack, images, draws, diverging=diverging, span=span)
        with frozen_parameters(self.network):
            if self.folded is not None:
                self.folded.refresh()
            increase = divergence_from(self.clean_answers(images)) if diverging else lambda logits: loss(logits).sum()
            return ascend(self.ask, images, increase, start=start, eps=ball, step=step, steps=attack.passes, span=span)

    @torch.no_grad()
    def clean_answers(self, images: Tensor) -> Tensor:
        """Logits [N, classes] as the attack sees them, of images that are not attacked."""
        return self.ask(images)

    def ask(self, images: Tensor) -> Tensor:
        """Logits [N, classes] in float32 as the attack sees them."""
        if self.asked is self.network:
            return self.forward(images)
        with self.precision():
            return full_precision(self.asked(images))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] in float32, by the compiled network where there is one."""
        # A smaller last batch would compile everything a second time.
        network = self.compiled if len(images) == self.training.batch_size else self.network
        with self.precision():
            return full_precision(network(images))

    def precision(self) -> Any:
        """The autocast that training.precision asks for."""
        if self.training.precision == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()
