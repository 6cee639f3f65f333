"""Auto-PGD in an l-infinity ball: momentum, and a step size that every image halves by itself where it gets nowhere.

`apgd_ce` ascends the cross-entropy, `apgd_t` the targeted difference of logits ratio of nine classes in turn: those
that the network thinks likeliest after the true one. Both as in AutoAttack's standard version, but that an image is
done with as soon as it is broken, that the last step asks for no gradient, and that the first rise of the loss is
counted from the start.

Source: arXiv 2003.01690.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.attacks.active_set import ActiveSet, first_of_several, first_to_break, in_whole_batches, joined, repeated
from ablate.attacks.base import Attack, Network, later, refuse_negative, register_attack
from ablate.attacks.linf import LinfAttack, corners, uniform_noise
from ablate.core.errors import SpecError
from ablate.core.randomness import stream
from ablate.spaces.specs import MeasurementSpec

Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits [N, classes], labels [N] and target classes [N] to what is increased, [N]."""

MOMENTUM = 0.75
"""Share of a step that is the gradient's; the rest goes on as before."""

RISES = 0.75
"""In so large a share of a window's steps the loss has to rise, or the step size is halved."""

_TINY = 1e-12


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """[N] cross-entropy against the labels; there are no targets."""
    return F.cross_entropy(logits, labels, reduction="none")


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """[N] the targeted difference of logits ratio: -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2), of logits in order."""
    top = logits.topk(4, dim=1).values
    own, other = logit_of(logits, labels), logit_of(logits, targets)
    return -(own - other) / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + _TINY)


def logit_of(logits: Tensor, classes: Tensor) -> Tensor:
    """[N] the logit of one class of each image, of [N, classes] and [N] int64."""
    return logits.gather(1, classes[:, None]).squeeze(1)


def likeliest_others(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The classes that a network thinks likeliest, but for the true one.

    Args:
        logits: [N, classes] of the images themselves.
        labels: [N] int64.
        count: How many, at most; there are one less than classes.

    Returns:
        [N, count] int64, the likeliest first.
    """
    own = labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
    ranked = logits.masked_fill(own, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return ranked[:, : min(count, logits.shape[1] - 1)]


def start_on_the_face(images: Tensor, eps: float, key: int, index: Tensor) -> Tensor:
    """A random point of the ball with at least one pixel at its edge, clamped to [0, 1].

    Args:
        images: [N, C, H, W] float in [0, 1].
        eps: Radius, pixels in [0, 1].
        key: Stream of random numbers.
        index: [N] int64, what each image's numbers hang on.
    """
    noise = uniform_noise(images, key, index)
    largest = noise.abs().amax(dim=(1, 2, 3), keepdim=True)
    return (images + eps * noise / (largest + _TINY)).clamp_(0.0, 1.0)


def windows(steps: int) -> list[int]:
    """After which steps an image's step size is looked at: 22, 41, 57 ... of 100, at ever shorter distances."""
    window, shortest, shorter = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    found = [window]
    while found[-1] < steps:
        window = max(window - shorter, shortest)
        found.append(found[-1] + window)
    return [step for step in found if step <= steps]


def ascend_adaptively(
    network: Network,
    images: Tensor,
    labels: Tensor,
    loss: Loss,
    *,
    start: Tensor,
    eps: float,
    steps: int,
    targets: Tensor | None = None,
    done: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Auto-PGD from a given point.

    Args:
        network: Images to logits.
        images: [N, C, H, W] float in [0, 1], the centres.
        labels: [N] int64.
        loss: What is increased.
        start: [N, C, H, W] in the ball.
        eps: Radius, pixels in [0, 1].
        steps: How many.
        targets: [N] int64, the classes that `loss` aims at; None where it aims at none.
        done: [N] bool, images to leave as they are; None: none.

    Returns:
        [N, C, H, W], of each image the first point that is misclassified, or that of the highest loss; and [N] bool,
        which are misclassified.
    """
    images = images.detach()
    done = torch.zeros_like(labels, dtype=torch.bool) if done is None else done
    zero = torch.zeros(len(images), dtype=images.dtype, device=images.device)
    lower, upper = corners(images, eps)
    left = ActiveSet(
        images,
        done,
        lower=lower,
        upper=upper,
        labels=labels,
        targets=labels if targets is None else targets,
        now=start.detach(),
        before=start.detach(),
        best=start.detach(),
        gradient=torch.zeros_like(images),
        best_gradient=torch.zeros_like(images),
        loss=zero,
        best_loss=torch.full_like(zero, -torch.inf),
        checked_loss=zero,
        rises=zero,
        step=torch.full_like(zero, 2 * eps),
        halved=torch.ones_like(done),
    )
    ask = in_whole_batches(network)

    def look(*, last: bool, first: bool = False) -> None:
        """Judge where the images are now, and keep the best; broken ones leave."""
        with torch.set_grad_enabled(not last):
            now = left["now"].detach().requires_grad_(not last)
            logits = ask(now)
            values = loss(logits, left["labels"], left["targets"])
            if not last:
                (left["gradient"],) = torch.autograd.grad(values.sum(), now)
        values = values.detach()
        better = values > left["best_loss"]
        left["best"] = _where(better, left["now"], left["best"])
        left["best_gradient"] = _where(better, left["gradient"], left["best_gradient"])
        left["best_loss"] = torch.where(better, values, left["best_loss"])
        if not first:
            left["rises"] = left["rises"] + (values > left["loss"])
        left["loss"] = values
        left.note(logits.detach().argmax(1) != left["labels"], left["now"])

    checks = windows(steps)
    if len(left):
        look(last=steps == 0, first=True)
        left["checked_loss"] = left["best_loss"]
    since = 0
    for step in range(1, steps + 1):
        if not len(left):
            break
        now, before, width = left["now"], left["before"], left["step"][:, None, None, None]
        there = _inside(now + width * left["gradient"].sign(), left)
        if step > 1:
            there = _inside(now + MOMENTUM * (there - now) + (1 - MOMENTUM) * (now - before), left)
        left["before"], left["now"] = now, there
        look(last=step == steps)
        if step in checks:
            stuck = left["rises"] <= RISES * (step - since)
            stuck = stuck | (~left["halved"] & (left["checked_loss"] >= left["best_loss"]))
            left["halved"], left["checked_loss"] = stuck, left["best_loss"]
            left["step"] = torch.where(stuck, left["step"] / 2, left["step"])
            left["now"] = _where(stuck, left["best"], left["now"])
            left["gradient"] = _where(stuck, left["best_gradient"], left["gradient"])
            left["rises"] = torch.zeros_like(left["rises"])
            since = step
    if len(left):
        left.keep(left["best"])
    return left.settle(), left.broken


def _where(which: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(which[:, None, None, None], yes, no)


def _inside(points: Tensor, left: ActiveSet) -> Tensor:
    return torch.minimum(torch.maximum(points, left["lower"]), left["upper"])


def wrong_already(
    network: Network, images: Tensor, labels: Tensor, clean_logits: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What the network says of the images themselves.

    Returns:
        Logits [N, classes], and [N] bool: which images are misclassified as they are, and need no attack.
    """
    if clean_logits is None:
        with torch.no_grad():
            clean_logits = in_whole_batches(network)(images)
    return clean_logits, clean_logits.argmax(1) != labels


@dataclass(frozen=True, kw_only=True, repr=False)
class APGD(LinfAttack):
    """Auto-PGD on the cross-entropy.

    Args:
        eps_255: Radius of the ball, in 1/255.
        steps: Iterations.
        restarts: Random starts; later ones are for the images that are still right.
    """

    uses_clean_logits: ClassVar[bool] = True
    reducible: ClassVar[bool] = True
    spares_broken: ClassVar[bool] = True

    name: str = "apgd_ce"
    eps_255: float = 8.0
    steps: int = 100
    restarts: int = later(1)

    def __post_init__(self) -> None:
        refuse_negative(self, "eps_255", "steps", "restarts")

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
        eps = self.eps_255 / 255
        _, done = wrong_already(network, images, labels, clean_logits)

        def attempt(restart: int, done: Tensor) -> tuple[Tensor, Tensor]:
            start = start_on_the_face(images, eps, stream(seed, f"attack:{self.name}", restart), index)
            return ascend_adaptively(
                network, images, labels, cross_entropy, start=start, eps=eps, steps=self.steps, done=done
            )

        return first_to_break(images, done, attempt, range(self.restarts))


@dataclass(frozen=True, kw_only=True, repr=False)
class TargetedAPGD(LinfAttack):
    """Auto-PGD on the targeted difference of logits ratio, one target class after the other.

    Args:
        eps_255: Radius of the ball, in 1/255.
        steps: Iterations for each target.
        targets: Classes aimed at, at most one less than there are.
        restarts: Random starts for each target.
    """

    uses_clean_logits: ClassVar[bool] = True
    least_classes: ClassVar[int] = 4  # the ratio divides by what lies between the first, third and fourth logit
    reducible: ClassVar[bool] = True
    spares_broken: ClassVar[bool] = True

    name: str = "apgd_t"
    eps_255: float = 8.0
    steps: int = 100
    targets: int = 9
    restarts: int = later(1)

    def __post_init__(self) -> None:
        refuse_negative(self, "eps_255", "steps", "targets", "restarts")

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
        eps = self.eps_255 / 255
        logits, done = wrong_already(network, images, labels, clean_logits)
        if logits.shape[1] < self.least_classes:
            raise SpecError(f"{self.name}: expected at least {self.least_classes} classes, got {logits.shape[1]}")
        others = likeliest_others(logits, labels, self.targets)

        def attempt(which: Sequence[tuple[int, int]], places: Tensor) -> tuple[Tensor, Tensor]:
            chosen = repeated(images, places, 1)
            keys = [stream(seed, f"attack:{self.name}", rank, restart) for rank, restart in which]
            starts = [start_on_the_face(chosen, eps, key, index[places]) for key in keys]
            return ascend_adaptively(
                network,
                repeated(images, places, len(which)),
                repeated(labels, places, len(which)),
                targeted_dlr,
                start=joined(starts, images),
                eps=eps,
                steps=self.steps,
                targets=torch.cat([others[places, rank] for rank, _ in which]),
            )

        # Of an image that stays right, what was made for the likeliest other class.
        return first_of_several(images, done, attempt, itertools.product(range(others.shape[1]), range(self.restarts)))


@register_attack("apgd_ce")
def _apgd_ce(spec: MeasurementSpec) -> Attack:
    return APGD(eps_255=spec.eps_255)


@register_attack("apgd_t")
def _apgd_t(spec: MeasurementSpec) -> Attack:
    return TargetedAPGD(eps_255=spec.eps_255)
