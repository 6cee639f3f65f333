"""Where training attacks start, how far their steps go, and in which ball they stay."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ablate.attacks.linf import PIXELS
from ablate.core import randomness
from ablate.learning.draws import Draws
from ablate.spaces.specs import TrainingAttackSpec

FGSM_RS_STEP = 1.25
"""Step of FGSM with a random start, in radii (arXiv 2001.03994)."""

N_FGSM_NOISE = 2.0
"""Radius of N-FGSM's noise, in radii of the attack (arXiv 2202.01181)."""

DIVERGENCE_STD = 0.001
"""Of the noise that an attack on the divergence starts from, pixels in [0, 1] (arXiv 1901.08573, Algorithm 1)."""


class Start(NamedTuple):
    """How an attack goes about a batch; lengths are pixels in [0, 1]."""

    images: Tensor
    step: float
    ball: float


def start_of(
    attack: TrainingAttackSpec,
    images: Tensor,
    draws: Draws,
    *,
    diverging: bool,
    span: tuple[float, float] = PIXELS,
) -> Start:
    """Where an attack starts.

    Args:
        attack: Not `none`.
        images: [N, 3, H, W] in [0, 1].
        draws: The step's random numbers.
        diverging: Whether it increases the divergence from the clean answer, which has no gradient at the image.
        span: The range of the images, where that is not [0, 1].

    Returns:
        The images to start from, the step, and the radius of the ball that every step is projected to.
    """
    eps, step, ball = attack.eps_255 / 255, attack.step_255 / 255, attack.eps_255 / 255
    row, shape = draws.rows("attack start"), tuple(images.shape[1:])

    def noise(radius: float) -> Tensor:
        return randomness.symmetric_of(row, shape, radius, images.dtype)

    if attack.name == "n_fgsm":
        # Its noise leaves the ball and is not brought back; only pixels stay pixels.
        return Start(images + noise(N_FGSM_NOISE * eps), eps, 1.0)
    if attack.name == "fgsm_rs":
        return Start((images + noise(eps)).clamp_(*span), FGSM_RS_STEP * eps, ball)
    if diverging:
        return Start(images + DIVERGENCE_STD * randomness.normal_of(row, shape).to(images.dtype), step, ball)
    if attack.random_start:
        return Start((images + noise(eps)).clamp_(*span), step, ball)
    return Start(images, step, ball)
