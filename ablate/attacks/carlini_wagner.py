"""Carlini and Wagner's L2 attack in tanh space, twice: with torchattacks' habits (`cw20`), and without (`cw20_exact`).

Both minimize |x' - x|^2 + c * max(margin, -kappa) over w, with x' = (tanh(w) + 1) / 2 and Adam, and return for each
image the misclassified x' closest to it, or the image itself where none was found. The perturbation has no bound.

`cw20` keeps what torchattacks 3.5.1 does, because the published tables were made with it:
  - logits are masked by multiplication, which floors the label's and the best other logit at 0: where all other logits
    are negative the margin's gradient no longer points to any class;
  - the whole batch stops as soon as its summed cost rises from one check to the next;
  - the last update is never judged;
  - pixels at exactly 0 or 1 lie at infinity in tanh space and never move.
`cw20_exact` has none of these. It never stops early: where every image keeps its own best, stopping only weakens.

Source: arXiv 1608.04644.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ablate.attacks.base import Attack, Network, full_precision, refuse_negative, register_attack
from ablate.attacks.threats import UNBOUNDED, Threat
from ablate.spaces.specs import MeasurementSpec

_BETA_1, _BETA_2, _ADAM_EPS = 0.9, 0.999, 1e-8
_FAR = 1e10  # torchattacks' stand-in for infinity, of distances and of costs


class _Adam:
    """torch.optim.Adam's arithmetic on one tensor, with nothing kept on the host that a CUDA graph would miss."""

    def __init__(self, like: Tensor, learning_rate: float) -> None:
        self.mean = torch.zeros_like(like)
        self.square = torch.zeros_like(like)
        self.learning_rate = learning_rate
        self.step = 0

    def update(self, value: Tensor, gradient: Tensor) -> Tensor:
        self.step += 1
        self.mean.lerp_(gradient, 1 - _BETA_1)
        self.square.mul_(_BETA_2).addcmul_(gradient, gradient, value=1 - _BETA_2)
        scale = self.square.sqrt().div_((1 - _BETA_2**self.step) ** 0.5).add_(_ADAM_EPS)
        return torch.addcdiv(value, self.mean, scale, value=-self.learning_rate / (1 - _BETA_1**self.step))


def _from_tanh_space(w: Tensor) -> Tensor:
    return 0.5 * (torch.tanh(w) + 1)


def _to_tanh_space(images: Tensor) -> Tensor:
    x = images * 2 - 1
    return 0.5 * torch.log((1 + x) / (1 - x))


def _squared_distance(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).square().sum(dim=(1, 2, 3))


def _is_label(logits: Tensor, labels: Tensor) -> Tensor:
    # By comparison: one_hot looks at the labels' values, for which the host would have to wait.
    return labels[:, None] == torch.arange(logits.shape[1], device=logits.device)


def floored_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max(logit of the label, 0) - max(best other logit, 0), as torchattacks' masking has it.

    Args:
        logits: [N, classes].
        labels: [N] int64.

    Returns:
        [N]; the gradient of a floored term is 0.
    """
    own = _is_label(logits, labels).to(logits.dtype)
    return (own * logits).max(dim=1).values - ((1 - own) * logits).max(dim=1).values


def true_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label minus the best other logit.

    Args:
        logits: [N, classes].
        labels: [N] int64.

    Returns:
        [N], negative where misclassified.
    """
    others = logits.masked_fill(_is_label(logits, labels), -torch.inf)
    return logits.gather(1, labels[:, None]).squeeze(1) - others.max(dim=1).values


class _Best:
    """For every image the closest misclassified version seen so far."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.distance = torch.full((images.shape[0],), _FAR, dtype=images.dtype, device=images.device)

    def judge(self, candidates: Tensor, distance: Tensor, wrong: Tensor) -> None:
        better = wrong & (distance < self.distance)
        self.distance = torch.where(better, distance, self.distance)
        self.images = torch.where(better[:, None, None, None], candidates, self.images)


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack):
    """CW-L2 with torchattacks' habits: what the tables' CW-20 column is.

    Args:
        c: Weight of the margin beside the squared distance.
        kappa: Confidence: how far below 0 the margin is still pushed, in logits.
        steps: Iterations of Adam.
        learning_rate: Adam's, in tanh space.
    """

    batch_dependent: ClassVar[bool] = True

    name: str = "cw20"
    c: float = 1.0
    kappa: float = 0.0
    steps: int = 20
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        refuse_negative(self, "c", "kappa", "steps", "learning_rate")

    @property
    def threat(self) -> Threat:
        """A short change, of any length."""
        return Threat("l2", UNBOUNDED)

    def perturb(
        self,
        network: Network,
        images: Tensor,
        labels: Tensor,
        *,
        index: Tensor,
        seed: int,
        clean_logits: Tensor | None = None,
    ) -> Tensor:
        """As in `Attack.perturb`."""
        images = images.detach()
        w = _to_tanh_space(images)
        adam = _Adam(w, self.learning_rate)
        best = _Best(images)
        previous_cost = torch.full((), _FAR, dtype=images.dtype, device=images.device)
        for step in range(self.steps):
            with torch.enable_grad():
                w.requires_grad_()
                candidates = _from_tanh_space(w)
                distance = _squared_distance(candidates, images)
                logits = full_precision(network(candidates))
                margin = floored_margin(logits, labels).clamp(min=-self.kappa)
                cost = distance.sum() + self.c * margin.sum()
            best.judge(candidates.detach(), distance.detach(), logits.detach().argmax(1) != labels)
            if step % max(self.steps // 10, 1) == 0:
                # The host waits for the cost here, at every other step; what it can save is half of the steps.
                if bool(cost.detach() > previous_cost):
                    break
                previous_cost = cost.detach()
            if step + 1 < self.steps:  # the last update would never be judged
                w = adam.update(w.detach(), torch.autograd.grad(cost, w)[0])
        return best.images


@dataclass(frozen=True, kw_only=True)
class ExactCarliniWagner(CarliniWagner):
    """CW-L2 without torchattacks' habits: true margin, no early stop, every update judged, every pixel free.

    Args:
        edge_255: Pixels start at least this far inside [0, 1], in 1/255, or tanh space could not move them. Half a grey
            level, the default, is gone again when the image is rounded to 8 bits.
    """

    batch_dependent: ClassVar[bool] = False

    name: str = "cw20_exact"
    edge_255: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_negative(self, "edge_255")

    def perturb(
        self,
        network: Network,
        images: Tensor,
        labels: Tensor,
        *,
        index: Tensor,
        seed: int,
        clean_logits: Tensor | None = None,
    ) -> Tensor:
        """As in `Attack.perturb`."""
        images = images.detach()
        edge = self.edge_255 / 255
        w = _to_tanh_space(images.clamp(edge, 1 - edge))
        adam = _Adam(w, self.learning_rate)
        best = _Best(images)
        for _ in range(self.steps):
            with torch.enable_grad():
                w.requires_grad_()
                candidates = _from_tanh_space(w)
                distance = _squared_distance(candidates, images)
                logits = full_precision(network(candidates))
                margin = true_margin(logits, labels).clamp(min=-self.kappa)
                (gradient,) = torch.autograd.grad(distance.sum() + self.c * margin.sum(), w)
            best.judge(candidates.detach(), distance.detach(), logits.detach().argmax(1) != labels)
            w = adam.update(w.detach(), gradient)
        with torch.no_grad():
            candidates = _from_tanh_space(w.detach())
            wrong = full_precision(network(candidates)).argmax(1) != labels
            best.judge(candidates, _squared_distance(candidates, images), wrong)
        return best.images


@register_attack("cw20")
def _cw20(spec: MeasurementSpec) -> Attack:
    return CarliniWagner(c=spec.cw_c, kappa=spec.cw_kappa, learning_rate=spec.cw_learning_rate)


@register_attack("cw20_exact")
def _cw20_exact(spec: MeasurementSpec) -> Attack:
    return ExactCarliniWagner(c=spec.cw_c, kappa=spec.cw_kappa, learning_rate=spec.cw_learning_rate)
