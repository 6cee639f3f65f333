"""FGSM, BIM, PGD and TPGD: sign-gradient ascent in an l-infinity ball, all by one loop.

The loop is also the one of adversarial training. Conventions are torchattacks 3.5.1's, whose names the tables use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.attacks.base import Attack, Network, full_precision, later, refuse_negative, register_attack
from ablate.attacks.threats import Threat
from ablate.core.randomness import normal, rows, stream, symmetric_of
from ablate.spaces.specs import MeasurementSpec


class LinfAttack(Attack):
    """An attack in an l-infinity ball around the image; a dataclass whose fields have its radius."""

    eps_255: float

    @property
    def threat(self) -> Threat:
        """The l-infinity ball."""
        return Threat("linf", self.eps_255)


PIXELS = (0.0, 1.0)
"""The range of what an attack makes."""

ANY = (-math.inf, math.inf)
"""The range of what a filter leaves of images, which is not one of pixels."""


def corners(images: Tensor, eps: float, span: tuple[float, float] = PIXELS) -> tuple[Tensor, Tensor]:
    """The smallest and the largest values of the ball within [0, 1].

    Both faces of ball and box cost one clamp a step, where clipping the difference would cost four kernels.

    Args:
        images: [N, C, H, W] float in [0, 1], the centres.
        eps: Radius, pixels in [0, 1].
        span: Another range than [0, 1].

    Returns:
        Each like `images`.
    """
    return (images - eps).clamp_(min=span[0]), (images + eps).clamp_(max=span[1])


def ascend(
    network: Network,
    images: Tensor,
    loss_of_logits: Callable[[Tensor], Tensor],
    *,
    start: Tensor,
    eps: float,
    step: float,
    steps: int,
    span: tuple[float, float] = PIXELS,
    along: Callable[[Tensor], Tensor] = torch.sign,
    reconciled: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Projected sign-gradient ascent: x <- clip(x + step * sign(grad loss(network(x)))), to the eps ball and [0, 1].

    Never waits for the device and takes no gradient but the image's, so that it can be compiled or captured in a CUDA
    graph (compiling needs `torch._dynamo.config.trace_autograd_ops`). Where the network itself is compiled, freeze its
    parameters (`ablate.core.modes.frozen`). Memory format follows `images`; under autocast the loss sees float32
    logits.

    Args:
        network: Images to logits.
        images: [N, C, H, W] float in [0, 1], the centre of the ball.
        loss_of_logits: Logits [N, classes] to the scalar to increase: a sum or mean over the images.
        start: [N, C, H, W], where to begin; every step projects, the start itself is taken as it is.
        eps: Radius of the ball, pixels in [0, 1].
        step: Step size, pixels in [0, 1].
        steps: How many; 0 returns the start.
        span: Another range than [0, 1].
        along: The gradient to the direction of a step.
        reconciled: What brings each step's images back, which meet more than ball and range; None: clipping alone.

    Returns:
        [N, C, H, W], detached.

    Source: arXiv 1706.06083.
    """
    lower, upper = corners(images.detach(), eps, span)
    current = start.detach()
    with torch.enable_grad():
        for _ in range(steps):
            current.requires_grad_()
            loss = loss_of_logits(full_precision(network(current)))
            (gradient,) = torch.autograd.grad(loss, current)
            moved = torch.add(current.detach(), along(gradient), alpha=step)
            current = moved.clamp_(lower, upper) if reconciled is None else reconciled(moved)
    return current


def cross_entropy_of(labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss of FGSM, BIM and PGD: cross-entropy against hard labels.

    Args:
        labels: [N] int64.

    Returns:
        Logits [N, classes] to a scalar, their mean.
    """
    # Signs are those of the sum. The mean rounds as torchattacks' does, and in float32 one sign that rounding flips can
    # send an image elsewhere for all the steps that follow: with the sum one image in some hundreds did.
    return lambda logits: F.cross_entropy(logits, labels)


def divergence_from(clean_logits: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss of TPGD: KL(softmax(clean) || softmax(adversarial)).

    Args:
        clean_logits: [N, classes], what the network says of the unperturbed images.

    Returns:
        Logits [N, classes] to a scalar, summed.

    Source: arXiv 1901.08573.
    """
    target = full_precision(clean_logits).detach().softmax(dim=1)
    return lambda logits: F.kl_div(logits.log_softmax(dim=1), target, reduction="sum")


def uniform_noise(images: Tensor, key: int | Tensor, index: Tensor) -> Tensor:
    """Uniform numbers in [-1, 1), of the images' shape and type.

    Args:
        images: [N, C, H, W].
        key: Stream of random numbers, see `ablate.core.randomness.stream`.
        index: [N] int64, what each image's numbers hang on.
    """
    return symmetric_of(rows(key, index), tuple(images.shape[1:])).to(images.dtype)


def uniform_start(images: Tensor, eps: float, key: int | Tensor, index: Tensor) -> Tensor:
    """A uniform point of the ball, clamped to [0, 1].

    Args:
        images: [N, C, H, W] float in [0, 1].
        eps: Radius, pixels in [0, 1].
        key: Stream of random numbers, see `ablate.core.randomness.stream`.
        index: [N] int64, what each image's numbers hang on.

    Returns:
        [N, C, H, W] in [0, 1], of the images' type and memory format.
    """
    return (images + eps * uniform_noise(images, key, index)).clamp_(0.0, 1.0)


def restarted(
    network: Network, labels: Tensor, restarts: int, attempt: Callable[[int, Tensor | None], Tensor]
) -> Tensor:
    """The first of several random starts that breaks an image.

    Args:
        network: Images to logits.
        labels: [N] int64.
        restarts: How many starts; the network is asked which images are left only where there are several.
        attempt: Which start, and [n] int64 which images (None: all), to what is made of them.

    Returns:
        [N, C, H, W]; of an image that no start breaks, what the first one made.
    """
    made = attempt(0, None)
    for restart in range(1, restarts):
        with torch.no_grad():
            left = (full_precision(network(made)).argmax(1) == labels).nonzero().squeeze(1)
        if not len(left):
            break
        again = attempt(restart, left)
        with torch.no_grad():
            broken = full_precision(network(again)).argmax(1) != labels[left]
        made[left[broken]] = again[broken]
    return made


def _start(seed: int, name: str, restart: int) -> int:
    """The stream of a start: the first one's is what it was when there was no other."""
    return stream(seed, f"attack:{name}", *([restart] if restart else []))


def _some(values: Tensor, which: Tensor | None) -> Tensor:
    return values if which is None else values[which]


@dataclass(frozen=True, kw_only=True)
class FGSM(LinfAttack):
    """Fast gradient sign method: one step of eps (arXiv 1412.6572).

    Args:
        eps_255: Radius of the ball and step size, in 1/255.
    """

    name: str = "fgsm"
    eps_255: float = 8.0

    def __post_init__(self) -> None:
        refuse_negative(self, "eps_255")

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
        return ascend(network, images, cross_entropy_of(labels), start=images, eps=eps, step=eps, steps=1)


@dataclass(frozen=True, kw_only=True, repr=False)
class PGD(LinfAttack):
    """Projected gradient descent from a random point of the ball (arXiv 1706.06083).

    Args:
        eps_255: Radius of the ball, in 1/255.
        step_255: Step size alpha, in 1/255.
        steps: Iterations.
        random_start: Start from a uniform point of the ball, clamped to [0, 1]; else from the image.
        restarts: Random starts; later ones are for the images that are still right.
    """

    name: str = "pgd20"
    eps_255: float = 8.0
    step_255: float = 2.0
    steps: int = 20
    random_start: bool = True
    restarts: int = later(1)

    def __post_init__(self) -> None:
        refuse_negative(self, "eps_255", "step_255", "steps", "restarts")

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
        eps, step = self.eps_255 / 255, self.step_255 / 255

        def attempt(restart: int, which: Tensor | None) -> Tensor:
            chosen = start = _some(images, which)
            if self.random_start:
                start = uniform_start(chosen, eps, _start(seed, self.name, restart), _some(index, which))
            loss = cross_entropy_of(_some(labels, which))
            return ascend(network, chosen, loss, start=start, eps=eps, step=step, steps=self.steps)

        return restarted(network, labels, self.restarts if self.random_start else 1, attempt)


@dataclass(frozen=True, kw_only=True)
class BIM(LinfAttack):
    """Basic iterative method: PGD from the image itself (arXiv 1607.02533).

    Args:
        eps_255: Radius of the ball, in 1/255.
        step_255: Step size alpha, in 1/255.
        steps: Iterations.
    """

    name: str = "bim20"
    eps_255: float = 8.0
    step_255: float = 2.0
    steps: int = 20

    def __post_init__(self) -> None:
        refuse_negative(self, "eps_255", "step_255", "steps")

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
        loss, eps, step = cross_entropy_of(labels), self.eps_255 / 255, self.step_255 / 255
        return ascend(network, images, loss, start=images, eps=eps, step=step, steps=self.steps)


@dataclass(frozen=True, kw_only=True, repr=False)
class TPGD(LinfAttack):
    """TRADES' attack: away from what the network says of the clean image, labels unseen (arXiv 1901.08573).

    It starts from the image with a little noise, because at the image itself the gradient of the divergence is 0.

    Args:
        eps_255: Radius of the ball, in 1/255.
        step_255: Step size alpha, in 1/255.
        steps: Iterations.
        start_std: Standard deviation of the start's noise, pixels in [0, 1].
        restarts: Random starts; later ones are for the images that are still right.
    """

    uses_clean_logits: ClassVar[bool] = True

    name: str = "tpgd20"
    eps_255: float = 8.0
    step_255: float = 2.0
    steps: int = 20
    start_std: float = 0.001
    restarts: int = later(1)

    def __post_init__(self) -> None:
        refuse_negative(self, "eps_255", "step_255", "steps", "start_std", "restarts")

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
        if clean_logits is None:
            with torch.no_grad():
                clean_logits = network(images)
        clean = clean_logits
        eps, step = self.eps_255 / 255, self.step_255 / 255

        def attempt(restart: int, which: Tensor | None) -> Tensor:
            chosen = _some(images, which)
            noise = normal(_start(seed, self.name, restart), _some(index, which), tuple(images.shape[1:]))
            start = (chosen + self.start_std * noise.to(images.dtype)).clamp_(0.0, 1.0)
            loss = divergence_from(_some(clean, which))
            return ascend(network, chosen, loss, start=start, eps=eps, step=step, steps=self.steps)

        return restarted(network, labels, self.restarts, attempt)


@register_attack("fgsm")
def _fgsm(spec: MeasurementSpec) -> Attack:
    return FGSM(eps_255=spec.eps_255)


@register_attack("pgd20")
def _pgd20(spec: MeasurementSpec) -> Attack:
    return PGD(eps_255=spec.eps_255, step_255=spec.step_255)


@register_attack("bim20")
def _bim20(spec: MeasurementSpec) -> Attack:
    return BIM(eps_255=spec.eps_255, step_255=spec.step_255)


@register_attack("tpgd20")
def _tpgd20(spec: MeasurementSpec) -> Attack:
    return TPGD(eps_255=spec.eps_255, step_255=spec.step_255)
