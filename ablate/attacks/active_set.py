"""The images that an attack still works on: one that it broke is done with, and costs nothing any more.

Every image has its own state and its own random numbers, so leaving some out changes nothing for the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ablate.attacks.base import Network, full_precision
from ablate.core.memory import ran_out_of_memory

Which = TypeVar("Which")
Answer = TypeVar("Answer")

WHOLE_BATCHES = 16
"""On a CPU the network is asked about a multiple of so many images: kernels for fewer round otherwise, and what is said
of an image would hang on how many others are left."""

_DROP_FROM = 16
"""On a CPU broken images are dropped once they are one in so many: copying the state costs, too."""

ROWS_AT_ONCE = {True: 64, False: 2048}
"""Rows of a batch, on a CPU and elsewhere, up to which several attempts at an image are made at once: a CPU asks the
network in parts of so many, and a GPU is not filled by fewer."""

MOST_AHEAD = {True: 4, False: 16}
"""Steps of an image that a batch with room asks about at once, at most, on a CPU and elsewhere: the later ones are in
vain where an earlier one gains, and a CPU has less room."""

FILLED_AT = {True: 48, False: 2048}
"""Rows of a batch, on a CPU and elsewhere, up to which each row more costs less than the one before: on a CPU this is
so in bfloat16, and in float32 all rows cost the same."""

_DROP_EVERY = 10
"""Of so many steps one looks on a GPU whether images can be dropped: each time, the host waits for the device."""


def in_whole_batches(network: Network) -> Network:
    """A network that is asked about a multiple of `WHOLE_BATCHES` images, on a CPU.

    Args:
        network: Images to logits, each image by itself.

    Returns:
        The same function; what it says of an image does not hang on how many others there are.
    """

    def ask(images: Tensor) -> Tensor:
        lacking = -len(images) % WHOLE_BATCHES
        if images.device.type != "cpu" or not lacking:
            return full_precision(network(images))
        filled = torch.cat([images, images[:1].detach().expand(lacking, *images.shape[1:])])
        filled = filled.contiguous(memory_format=format_of(images))
        return full_precision(network(filled))[: len(images)]

    return ask


def rows_to_fill(count: int, device: torch.device, ahead: int) -> int:
    """How many images a network is asked about in hardly more time than about `count`.

    Args:
        count: At least 1.
        device: Where the network is.
        ahead: How many steps of an image are worth asking about at once.

    Returns:
        At least `count`: what fills the device, but hardly more than `ahead` and `MOST_AHEAD` times as many; on a CPU a
        whole number of `WHOLE_BATCHES`.
    """
    on_cpu = device.type == "cpu"
    rows = max(count, min(FILLED_AT[on_cpu], min(ahead, MOST_AHEAD[on_cpu]) * count))
    return rows + -rows % WHOLE_BATCHES if on_cpu else count * (rows // count)


def first_to_break(
    images: Tensor,
    done: Tensor,
    attempt: Callable[[Which, Tensor], tuple[Tensor, Tensor]],
    which: Iterable[Which],
) -> Tensor:
    """Attack again and again the images that are still right.

    Args:
        images: [N, C, H, W], what comes back for images that are not attacked at all.
        done: [N] bool, those.
        attempt: Which attempt, and [N] bool which images it is to leave alone, to [N, C, H, W] and [N] bool which of
            these are misclassified now.
        which: All attempts, in order.

    Returns:
        [N, C, H, W], of an image what the first attempt made that broke it, else what the first of all made.
    """
    made, first = images.detach().clone(), True
    for each in which:
        found, broken = attempt(each, done)
        made = torch.where((broken | ~done if first else broken)[:, None, None, None], found, made)
        done, first = done | broken, False
    return made


def first_of_several(
    images: Tensor,
    done: Tensor,
    attempt: Callable[[Sequence[Which], Tensor], tuple[Tensor, Tensor]],
    which: Iterable[Which],
) -> Tensor:
    """As `first_to_break`, with several attempts at an image in one batch, where few images are left.

    The first attempt runs by itself, but where others cost nothing beside it: it breaks most of what breaks at all.

    Args:
        images: As in `first_to_break`.
        done: As in `first_to_break`.
        attempt: Which attempts, and [n] int64 which images, to [k n, C, H, W] and [k n] bool, attempt by attempt. What
            comes of an image must not hang on the others.
        which: All attempts, in order.

    Returns:
        As of `first_to_break`, the same bits.
    """
    made = images.detach().clone()
    left, waiting, first = (~done).nonzero().squeeze(1), list(which), True
    on_cpu = images.device.type == "cpu"
    most = ROWS_AT_ONCE[on_cpu]
    while waiting and len(left):
        at_once = most
        if first:  # no more of them than cost nothing
            at_once = min(at_once, WHOLE_BATCHES if on_cpu else 1)
        count = max(1, min(at_once // len(left), len(waiting)))
        now = waiting[:count]
        answer = where_memory_allows(functools.partial(attempt, now, left), least=count == 1)
        if answer is None:
            most = count // 2 * len(left)
            continue
        found, broken = answer
        waiting = waiting[count:]
        hit, rank = first_hit(broken.view(len(now), len(left)))
        chosen = found[rank * len(left) + torch.arange(len(left), device=left.device)]
        if first:
            made[left] = chosen
        else:
            made[left[hit]] = chosen[hit]
        left, first = left[~hit], False
    return made


def first_hit(hits: Tensor) -> tuple[Tensor, Tensor]:
    """Of [attempts, n] bool, for each image: [n] bool, whether an attempt hits, and [n] int64, the first that does."""
    return hits.any(dim=0), hits.int().argmax(dim=0)


def where_memory_allows(ask: Callable[[], Answer], *, least: bool) -> Answer | None:
    """What is asked for; None where the device has too little memory for it, and less could be asked for at once.

    `measurement.batch_size` says how many images fit. That an attack asks about several attempts at an image at once
    must not be what a measurement fails of.

    Args:
        ask: What needs the memory.
        least: Whether less cannot be asked for at once.

    Raises:
        Exception: Of `ask`, but where memory ran out of more than the least.
    """
    try:
        return ask()
    except Exception as error:
        if least or not ran_out_of_memory(error):
            raise
        return None


def repeated(values: Tensor, places: Tensor, times: int) -> Tensor:
    """Some of the images, or of what belongs to them, several times one after the other.

    Args:
        values: [N, ...].
        places: [M] int64, which of them.
        times: How often.

    Returns:
        [times * M, ...]: all of them once, then all of them again.
    """
    chosen = values[places].repeat(times, *(1 for _ in values.shape[1:]))
    return chosen.contiguous(memory_format=format_of(values)) if values.dim() == 4 else chosen


def joined(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Images one after the other, [n, C, H, W] each, in the memory format of others."""
    return torch.cat(list(parts)).contiguous(memory_format=format_of(like))


def format_of(images: Tensor) -> torch.memory_format:
    """The memory format that images made of these should have."""
    # Indexing and joining come out in the default format, in which a GPU's convolutions are slower.
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


class ActiveSet:
    """State of an attack, image by image, of those that are not broken yet.

    Args:
        images: [N, C, H, W], what comes back for images that stay right.
        done: [N] bool, images that are not attacked at all.
        **state: [N, ...] each, what the attack remembers of an image; read and written as items.
    """

    def __init__(self, images: Tensor, done: Tensor, **state: Tensor) -> None:
        self.made = images.clone()
        self.broken = torch.zeros_like(done)
        self._place = torch.arange(len(images), device=images.device)
        self._state = state
        self._gone = done.clone()
        self._found = self.made.clone()
        self._calls = 0
        self._drop()

    def __getitem__(self, name: str) -> Tensor:
        return self._state[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._state[name] = value

    def __len__(self) -> int:
        return len(self._place)

    def note(self, wrong: Tensor, candidates: Tensor, *, through: Tensor | None = None) -> None:
        """Note which of the remaining images are broken now, and leave them out as soon as that pays.

        Args:
            wrong: [n] bool.
            candidates: [n, C, H, W], what breaks them.
            through: [n] bool, images for which the attack has nothing more to try: what comes back for them is the
                candidate, too. None: it has for all.
        """
        self.broken[self._place] = self.broken[self._place] | (wrong & ~self._gone)
        new = (wrong if through is None else wrong | through) & ~self._gone
        self._found = torch.where(new[:, None, None, None], candidates.detach(), self._found)
        self._gone = self._gone | new
        self._calls += 1
        if self._gone.device.type == "cpu":
            if int(self._gone.sum()) * _DROP_FROM >= len(self):
                self._drop()
        elif self._calls % _DROP_EVERY == 0:
            self._drop()

    def keep(self, candidates: Tensor) -> None:
        """What comes back for the M images that remain, [M, C, H, W] in [0, 1]; of those that are broken it stays."""
        self._found = torch.where(self._gone[:, None, None, None], self._found, candidates.detach())

    def settle(self) -> Tensor:
        """What the attack made of all images, [N, C, H, W]."""
        self.made[self._place] = self._found
        return self.made

    def _drop(self) -> None:
        stay = ~self._gone
        if bool(stay.all()):
            return
        self.made[self._place] = self._found
        self._place, self._found, self._gone = self._place[stay], _some(self._found, stay), self._gone[stay]
        self._state = {name: _some(value, stay) for name, value in self._state.items()}


def _some(values: Tensor, which: Tensor) -> Tensor:
    return values[which].contiguous(memory_format=format_of(values)) if values.dim() == 4 else values[which]
