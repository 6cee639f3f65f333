"""The two losses of training, per example: cross-entropy on hard labels, binary cross-entropy on soft ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor], Tensor]
"""Logits [N, K] -> the loss of each example, [N]."""


def cross_entropy(labels: Tensor, smoothing: float = 0.0) -> Loss:
    """-log softmax(z)_y of each example.

    Args:
        labels: [N] int64.
        smoothing: Share of a label that is spread over all classes alike.

    Returns:
        A function of the logits.
    """
    return lambda logits: functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def binary_cross_entropy(targets: Tensor, reduction: Literal["mean", "sum"]) -> Loss:
    """-sum_k [t_k log s(z_k) + (1 - t_k) log(1 - s(z_k))] of each example, s the sigmoid; or its mean over k.

    Args:
        targets: [N, K] in [0, 1].
        reduction: Over the classes.

    Returns:
        A function of the logits.
    """

    def loss(logits: Tensor) -> Tensor:
        each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return each.mean(dim=1) if reduction == "mean" else each.sum(dim=1)

    return loss
