"""What a training minimizes: PGD adversarial training, TRADES, MART, or a user's own; and AWP on top of each.

An objective is a function of a batch to a scalar. The batch knows the network in training mode, the images, and the
adversarial examples that the training attack made of them; a network's answers are computed when they are first asked
for, and in that order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.core.errors import SpecError
from ablate.core.registry import Registry, table
from ablate.learning.augmentation import get_augmentation
from ablate.learning.draws import Draws
from ablate.spaces.specs import TrainingSpec

TINY = 1e-20
"""What a gradient's norm is divided by at least, as in AWP's own code."""

Loss = Callable[[Tensor], Tensor]
"""Logits [N, K] -> the loss of each example, [N]."""

Attacked = Literal["loss", "divergence"]
"""What the training attack increases: the loss of the labels, or KL(network(x) || network(x'))."""


def cross_entropy(labels: Tensor, smoothing: float = 0.0) -> Loss:
    """-log softmax(z)_y of each example.

    Args:
        labels: [N] int64.
        smoothing: Share of a label that is spread over all classes alike.

    Returns:
        A function of the logits.
    """
    return lambda logits: F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def binary_cross_entropy(targets: Tensor, reduction: Literal["mean", "sum"]) -> Loss:
    """-sum_k [t_k log s(z_k) + (1 - t_k) log(1 - s(z_k))] of each example, s the sigmoid; or its mean over k.

    Args:
        targets: [N, K] in [0, 1].
        reduction: Over the classes.

    Returns:
        A function of the logits.
    """

    def loss(logits: Tensor) -> Tensor:
        each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return each.mean(dim=1) if reduction == "mean" else each.sum(dim=1)

    return loss


@dataclass
class Batch:
    """What an objective looks at.

    Args:
        network: Images to logits in float32, in training mode: its batch normalizations see each batch apart.
        images: [N, 3, H, W] in [0, 1], augmented, as they are before the attack.
        adversarial: As `images`: what the attack made of them; with augmentation A-, what was then made of that.
        labels: [N] int64, before any mixing.
        targets: [N, K] that sum to 1; one-hot of `labels` unless they were mixed.
        loss: Logits -> each example's loss: cross-entropy, smoothed where that is asked, or binary cross-entropy of
            mixed labels.
        weight: Of the objective's second term.
    """

    network: Callable[[Tensor], Tensor]
    images: Tensor
    adversarial: Tensor
    labels: Tensor
    targets: Tensor
    loss: Loss
    weight: float

    @functools.cached_property
    def clean_logits(self) -> Tensor:
        """What the network says of `images`, [N, classes]."""
        return self.network(self.images)

    @functools.cached_property
    def adversarial_logits(self) -> Tensor:
        """What the network says of `adversarial`, [N, classes]."""
        return self.network(self.adversarial)


ObjectiveFunction = Callable[[Batch], Tensor]
"""A batch -> the scalar to minimize."""


@dataclass(frozen=True)
class Traits:
    """What is known of an objective beside its function.

    Args:
        weight: Of its second term, where the spec tells none.
        attacked: What the attack increases.
        hard_labels: Whether it needs labels that are not mixed.
        passes: Of each image through the network in an update.
    """

    weight: float = 1.0
    attacked: Attacked = "loss"
    hard_labels: bool = False
    passes: int = 2


_objectives: Registry[ObjectiveFunction] = Registry("training.objective")
_traits: dict[str, Traits] = table({})
get_objective = _objectives.get
objective_source = _objectives.source_digest


def register_objective(
    name: str, *, weight: float = 1.0, attacked: Attacked = "loss", hard_labels: bool = False, passes: int = 2
) -> Callable[[ObjectiveFunction], ObjectiveFunction]:
    """The decorator that makes an objective available as `training.objective: <name>`, for a user's own module too.

    Args:
        name: What space files call it.
        weight: `batch.weight` where `training.objective_weight` is not set.
        attacked: What the training attack increases.
        hard_labels: Whether mixed labels are refused.
        passes: Of each image through the network in an update, for estimates.

    Raises:
        SpecError: The name belongs to another objective, or there is no such attack.
    """
    if attacked not in ("loss", "divergence"):
        raise SpecError(f"expected attacked of an objective to be 'loss' or 'divergence', got {attacked!r}")

    def decorate(function: ObjectiveFunction) -> ObjectiveFunction:
        _objectives.register(name)(function)
        _traits[name] = Traits(weight, attacked, hard_labels, passes)
        return function

    return decorate


def traits(name: str) -> Traits:
    """What is known of an objective.

    Raises:
        SpecError: Nobody registered it.
    """
    get_objective(name)
    return _traits[name]


@register_objective("pgd_at", weight=0.0, passes=1)
def pgd_at(batch: Batch) -> Tensor:
    """The mean loss of the adversarial examples, a scalar (arXiv 1706.06083, Equation 2.1)."""
    return batch.loss(batch.adversarial_logits).mean()


@register_objective("trades", weight=6.0, attacked="divergence")
def trades(batch: Batch) -> Tensor:
    """The mean loss of the images + weight * KL(network(x) || network(x')), a scalar (arXiv 1901.08573; weight: beta).

    Gradients reach both sides of the divergence, as in the authors' code.
    """
    clean, adversarial = batch.clean_logits, batch.adversarial_logits
    divergence = F.kl_div(adversarial.log_softmax(dim=1), clean.softmax(dim=1), reduction="batchmean")
    return batch.loss(clean).mean() + batch.weight * divergence


@register_objective("mart", weight=5.0, hard_labels=True)
def mart(batch: Batch) -> Tensor:
    """Boosted cross-entropy + weight * KL(network(x) || network(x')) * (1 - p_y(x)) (ICLR 2020, Equation 11).

    A scalar, the mean over the examples. The boost is -log(1 - the highest probability of another class).
    """
    clean, adversarial = batch.clean_logits, batch.adversarial_logits
    labels = batch.labels[:, None]
    log_adversarial, log_clean = adversarial.log_softmax(dim=1), clean.log_softmax(dim=1)
    wrong = adversarial.scatter(1, labels, -torch.inf).argmax(dim=1, keepdim=True)
    # log(1 - p_k) = log of the sum of all the others: exact where p_k is nearly 1.
    boost = -log_adversarial.scatter(1, wrong, -torch.inf).logsumexp(dim=1)
    entropy = batch.loss(adversarial) + boost
    divergence = F.kl_div(log_adversarial, log_clean, reduction="none", log_target=True).sum(dim=1)
    doubt = 1.0 - log_clean.gather(1, labels)[:, 0].exp()
    return entropy.mean() + batch.weight * (divergence * doubt).mean()


def refuse_mixed_labels(training: TrainingSpec, seed: int, images: Tensor, labels: Tensor, classes: int) -> None:
    """Whether an augmentation mixes labels that have to be hard; it tells by what it gives back.

    Args:
        training: The trial's.
        seed: The trial's.
        images: [N, 3, H, W] float in [0, 1]; two are enough.
        labels: [N] int64.
        classes: How many there are.

    Raises:
        SpecError: It does.
    """
    if not (traits(training.objective).hard_labels or training.label_smoothing):
        return
    hard = F.one_hot(labels, classes).to(images.dtype)
    draws = Draws(seed, 1, 0, len(images), images.device)
    if get_augmentation(training.augmentation.name)(images, hard, draws, training.augmentation)[1] is not hard:
        what = "label_smoothing" if training.label_smoothing else f"objective: {training.objective}"
        raise SpecError(
            f"expected hard labels with training.{what}, got training.augmentation.name: "
            f"{training.augmentation.name}, which mixes them"
        )


def perturbable(network: nn.Module) -> list[nn.Parameter]:
    """The weights of a network's convolutions and linear layers, which AWP moves."""
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    weights: dict[int, nn.Parameter] = {}
    for layer in layers:
        if isinstance(layer.weight, nn.Parameter):  # else a user's parametrization computes it
            weights[id(layer.weight)] = layer.weight
    return list(weights.values())


@contextmanager
def put_back(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Inside, the values of tensors may change; afterwards they are what they were, in the same places."""
    changing = [tensor.detach() for tensor in tensors]
    before = [tensor.clone() for tensor in changing]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, kept in zip(changing, before, strict=True):
                tensor.copy_(kept)


@contextmanager
def moved_weights(weights: Sequence[nn.Parameter], gradients: Sequence[Tensor], size: float) -> Iterator[None]:
    """Inside, each weight is w + size * ||w|| * g / ||g||; afterwards it is w again (arXiv 2004.05884, Equation 10).

    Args:
        weights: From `perturbable`.
        gradients: Of what is to be increased, of the same shapes.
        size: AWP's gamma.
    """
    with put_back(weights):
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.add_(gradient * (size * weight.norm() / (gradient.norm() + TINY)))
        yield


def identity_of(settings: Mapping[str, object]) -> dict[str, object]:
    """What of a training's settings tells its objective in a key.

    Args:
        settings: Of `TrainingSpec`.

    Returns:
        `objective_weight`: the one in force; None where the objective has no second term.
    """
    name, weight = str(settings["objective"]), settings["objective_weight"]
    if name == "pgd_at":
        return {"objective_weight": None}
    return {"objective_weight": traits(name).weight if weight is None else weight}
