"""Linear CKA between layers (Figures 6 and 7): full-batch, and accumulated over minibatches.

CKA(x, y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = x x^T, L = y y^T over the examples (arXiv 1905.00414).
The unbiased estimate of HSIC (Song et al. 2012) may be averaged over minibatches before the ratio (arXiv 2010.15327):
what is kept is [layers, layers], however many examples there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ablate.analysis.layers import collect_activations

__all__ = ["MinibatchCKA", "collect_activations", "gram", "hsic", "linear_cka", "shallow_deep_similarity"]


def gram(activations: Tensor) -> Tensor:
    """Inner products between examples: K = x x^T, of features with their means taken off.

    HSIC does not see the means; without them float32 loses fewer digits.

    Args:
        activations: [N, ...] float, one example each.

    Returns:
        [N, N], float32 at least.
    """
    flat = activations.detach().flatten(1)
    flat = flat.float() if flat.dtype in (torch.bfloat16, torch.float16) else flat
    flat = flat - flat[:1]  # first, so that a constant feature becomes exactly 0
    flat = flat - flat.mean(dim=0, keepdim=True)
    return flat @ flat.T


def hsic(first: Tensor, second: Tensor, unbiased: bool = True) -> Tensor:
    """The Hilbert-Schmidt independence criterion between every layer of one list and every layer of another.

    Biased: tr(K H L H) / (n - 1)^2 with H = I - 1/n 1 1^T. Unbiased, with the diagonals of K and L set to zero:
    (tr(K L) + 1^T K 1 1^T L 1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1^T K L 1) / (n (n - 3)).

    Args:
        first: [A, n, n] Gram matrices.
        second: [B, n, n] Gram matrices of the same examples.
        unbiased: Which estimate; the unbiased one needs n >= 4.

    Returns:
        [A, B] float64; unbiased values can be negative.

    Source: arXiv 1905.00414; Song et al., JMLR 13 (2012).
    """
    n = first.shape[-1]
    first, second = first.double(), second.double()
    if not unbiased:
        return _centred(first).flatten(1) @ _centred(second).flatten(1).T / (n - 1) ** 2
    if n < 4:
        raise ValueError(f"expected at least 4 examples for unbiased HSIC, got {n}")
    diagonal = torch.eye(n, dtype=torch.bool, device=first.device)
    first, second = first.masked_fill(diagonal, 0.0), second.masked_fill(diagonal, 0.0)
    rows_first, rows_second = first.sum(dim=2), second.sum(dim=2)
    trace = first.flatten(1) @ second.flatten(1).T
    sums = rows_first.sum(dim=1)[:, None] * rows_second.sum(dim=1)[None, :]
    cross = rows_first @ rows_second.T
    return (trace + sums / ((n - 1) * (n - 2)) - 2.0 / (n - 2) * cross) / (n * (n - 3))


def linear_cka(first: Tensor, second: Tensor, unbiased: bool = False) -> Tensor:
    """Linear CKA between two layers on one full batch.

    Args:
        first: [N, ...] float, activations.
        second: [N, ...] float, activations of the same examples.
        unbiased: Which estimate of HSIC.

    Returns:
        Scalar float64: in [0, 1] when biased, at most about 1 when unbiased. 0 where a layer is constant.

    Source: arXiv 1905.00414.
    """
    both = torch.stack([gram(first), gram(second)])
    values = hsic(both, both, unbiased)
    return _ratio(values[:1, 1:], values.diagonal()[:1], values.diagonal()[1:])[0, 0]


class MinibatchCKA:
    """Linear CKA between all layers, from equal minibatches: unbiased HSIC averaged first, then the ratio.

    Memory does not grow with the number of examples. Feed it one minibatch after another, then read `matrix()`:

        cka = MinibatchCKA()
        for images in batches:
            cka.update(collect_activations(network, images, transform=gram)[1], grams=True)
        cka.matrix()

    Source: arXiv 2010.15327.
    """

    def __init__(self) -> None:
        self.batches = 0
        self._examples: int | None = None
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None
        self._square: bool | None = None

    def update(self, first: Sequence[Tensor], second: Sequence[Tensor] | None = None, *, grams: bool = False) -> None:
        """Adds one minibatch.

        Args:
            first: One network's layers, [n, ...] each.
            second: Another network's layers for the same examples; None: the first network's own.
            grams: What is given are Gram matrices [n, n] already, as `gram` makes them.

        Raises:
            ValueError: Fewer than 4 examples, or not as many examples or layers as in the minibatches before.
        """
        ours = torch.stack([x if grams else gram(x) for x in first])
        theirs = ours if second is None else torch.stack([x if grams else gram(x) for x in second])
        examples = ours.shape[-1]
        if self._examples not in (None, examples) or theirs.shape[-1] != examples:
            raise ValueError(f"expected minibatches of {self._examples or examples} examples, got {theirs.shape[-1]}")
        cross = hsic(ours, theirs)
        own = cross.diagonal() if second is None else _own(ours)
        sums = (cross, own, own if second is None else _own(theirs))
        if self._sums is None:
            self._examples, self._square, self._sums = examples, second is None, sums
        else:
            if self._sums[0].shape != cross.shape or self._square != (second is None):
                raise ValueError(
                    f"expected the same layers in every minibatch, {list(self._sums[0].shape)}, got others"
                )
            self._sums = (self._sums[0] + sums[0], self._sums[1] + sums[1], self._sums[2] + sums[2])
        self.batches += 1

    def matrix(self) -> Tensor:
        """CKA between all layers so far.

        Returns:
            [layers of the first, layers of the second] float64; the diagonal is 1 for one network with itself. 0 where
            a layer is constant.

        Raises:
            ValueError: Nothing was added yet.
        """
        if self._sums is None:
            raise ValueError("expected at least one minibatch, got none")
        return _ratio(*self._sums)


def shallow_deep_similarity(matrix: Tensor) -> Tensor:
    """Mean CKA between the shallow and the deep third of a network's layers.

    Args:
        matrix: [L, L], L >= 3, layers in the order of execution.

    Returns:
        Scalar.

    Source: Sections 3.1.3 and 3.3.1 state it in words.
    """
    layers = matrix.shape[0]
    if layers < 3:
        raise ValueError(f"expected at least 3 layers, got {layers}")
    third = layers // 3
    return matrix[:third, layers - third :].mean()


def _own(grams: Tensor) -> Tensor:
    # One by one: the whole [L, L] would be computed only to throw away all but its diagonal.
    return torch.cat([hsic(layer[None], layer[None])[0] for layer in grams])


def _centred(grams: Tensor) -> Tensor:
    rows = grams.mean(dim=2, keepdim=True)
    return grams - rows - rows.transpose(1, 2) + rows.mean(dim=1, keepdim=True)


def _ratio(cross: Tensor, first: Tensor, second: Tensor) -> Tensor:
    product = first.clamp(min=0.0).sqrt()[:, None] * second.clamp(min=0.0).sqrt()[None, :]
    return torch.where(product > 0, cross / torch.where(product > 0, product, 1.0), 0.0)
