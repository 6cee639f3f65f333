"""What training steps draw: a function of (seed, epoch, step, place in the batch), on every device the same.

Small numbers, such as where images are cropped, are drawn on the host for many steps at once; a step looks its own up.
Those of pixels are made of such numbers where the pixels are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ablate.core import randomness

STEPS_AHEAD = 128
"""Steps whose small numbers are drawn at once."""

_SMALL = 16
"""Numbers an image at most that are drawn ahead."""

MOST_KINDS = 64
"""Of numbers drawn ahead at most: an augmentation may make up purposes as it goes."""


@dataclass(frozen=True)
class Steps:
    """Some steps of an epoch, whose numbers are drawn together."""

    seed: int
    epoch: int
    numbers: range
    count: int

    def rows(self, purpose: str) -> Tensor:
        """[steps, count] int64, as of `ablate.core.randomness.rows`."""
        keys = [randomness.stream(self.seed, purpose, self.epoch, number) for number in self.numbers]
        return randomness.rows(torch.tensor(keys)[:, None], torch.arange(self.count)[None, :])

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """[steps, count, *shape] float32."""
        return randomness.uniform_of(self.rows(purpose), shape)

    def permutation(self, purpose: str) -> Tensor:
        """[steps, count] int64."""
        return randomness.permutation_of(self.rows(purpose))

    def quantiles(self, purpose: str, parameter: float) -> Tensor:
        """[steps, count] float32."""
        # torch has no quantiles of it. Imported here: planning registers augmentations and draws nothing.
        from scipy.special import betaincinv

        rank = self.uniform(purpose, ()).double()
        return torch.from_numpy(betaincinv(parameter, parameter, rank.numpy())).clamp(0.0, 1.0).float()

    def windows(self, padding: int, flip: bool) -> Tensor:
        """[steps, count, 2] int64, as of `Draws.windows`."""
        offset = torch.zeros(len(self.numbers), self.count, 2, dtype=torch.int64)
        if padding:
            offset += (self.uniform("crop", (2,)) * (2 * padding + 1)).long()
        if flip:
            offset[..., 1] += (self.uniform("flip", ()) < 0.5) * (2 * padding + 1)
        return offset


Drawn = tuple[Hashable, ...]
"""A kind of small numbers: the name of a method of `Steps`, and its arguments."""


class Ahead:
    """The numbers of a training's steps, drawn for many of them at once.

    Args:
        seed: The trial's.
        device: Where they are wanted.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed, self.device = seed, device
        self.held: dict[tuple[Drawn, int], tuple[tuple[int, int], Tensor]] = {}

    def draws(self, epoch: int, step: int, count: int) -> Draws:
        """Those of a step."""
        return Draws(self.seed, epoch, step, count, self.device, self)

    def look_up(self, what: Drawn, now: Draws) -> Tensor:
        """A step's numbers of a kind, [count, ...] as of `Draws`."""
        first = now.step - now.step % STEPS_AHEAD
        epoch_and_first, drawn = self.held.get((what, now.count), ((-1, -1), None))
        if drawn is None or epoch_and_first != (now.epoch, first):
            if len(self.held) >= MOST_KINDS:
                self.held.clear()
            steps = Steps(self.seed, now.epoch, range(first, first + STEPS_AHEAD), now.count)
            drawn = draw(what, steps, self.device)
            self.held[what, now.count] = (now.epoch, first), drawn
        return drawn[now.step - first]


def draw(what: Drawn, steps: Steps, device: torch.device) -> Tensor:
    """Numbers of a kind for some steps: [steps, ...], on the device."""
    method, *arguments = what
    drawn: Tensor = getattr(steps, str(method))(*arguments)
    return drawn.to(device, non_blocking=True)  # staged before this returns: the host does not wait


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training step.

    Attributes:
        seed: The trial's seed.
        epoch: From 1.
        step: From 0.
        count: Images in the batch.
        device: Where the numbers are wanted.
        ahead: Has drawn them with those of other steps; None: they are drawn for this one alone.
    """

    seed: int
    epoch: int
    step: int
    count: int
    device: torch.device
    ahead: Ahead | None = field(default=None, repr=False, compare=False)

    def key(self, purpose: str) -> int:
        """The key of a stream for this step, for the functions of `ablate.core.randomness`."""
        return randomness.stream(self.seed, purpose, self.epoch, self.step)

    def rows(self, purpose: str) -> Tensor:
        """What an image's numbers of a purpose hang on, for the functions of rows of `ablate.core.randomness`.

        Returns:
            [count] int64.
        """
        return self.drawn(("rows", purpose))

    def uniform(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform numbers in [0, 1) for each image.

        Args:
            purpose: What they are for; different purposes are independent.
            shape: What one image needs.

        Returns:
            [count, *shape] float32.
        """
        if math.prod(shape) > _SMALL:
            return randomness.uniform_of(self.rows(purpose), shape)
        return self.drawn(("uniform", purpose, tuple(shape))).clone()  # a user's augmentation may change it

    def permutation(self, purpose: str) -> Tensor:
        """A random order of the batch: [count] int64, each place once."""
        return self.drawn(("permutation", purpose)).clone()

    def beta(self, purpose: str, parameter: float) -> Tensor:
        """One number of Beta(parameter, parameter) for each image: the quantile at a uniform number.

        Args:
            purpose: What they are for.
            parameter: Both parameters of the distribution, above 0.

        Returns:
            [count] float32 in [0, 1]; Beta(1, 1) is the uniform distribution itself.
        """
        if parameter == 1.0:
            return self.uniform(purpose)
        return self.drawn(("quantiles", purpose, parameter)).clone()

    def windows(self, padding: int, flip: bool) -> Tensor:
        """Where each image is cropped, and whether it is mirrored.

        Args:
            padding: Pixels around an image, so that there are 2 padding + 1 places each way.
            flip: Whether to mirror.

        Returns:
            [count, 2] int64: the first row of the window, and its first column, 2 padding + 1 further if mirrored.
        """
        return self.drawn(("windows", padding, flip))

    def drawn(self, what: Drawn) -> Tensor:
        """Small numbers of a kind, [count, ...] as its public name says: not to be changed."""
        if self.ahead is not None:
            return self.ahead.look_up(what, self)
        return draw(what, Steps(self.seed, self.epoch, range(self.step, self.step + 1), self.count), self.device)[0]


@functools.cache
def counted(count: int, device: torch.device) -> Tensor:
    """[count] int64, 0 .. count - 1; made on the host, so that no stream finds them half done."""
    return torch.arange(count).to(device)


@functools.cache
def columns_of(width: int, padding: int, device: torch.device) -> Tensor:
    """The columns of the padded image that a window shows, by what `Draws.windows` says.

    Returns:
        [2 (2 padding + 1), width] int64, from left to right; made on the host as well.
    """
    shown = torch.arange(2 * padding + 1)[:, None] + torch.arange(width)[None, :]
    return torch.cat([shown, shown.flip(1)]).to(device)
