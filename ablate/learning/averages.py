"""Exponential moving averages of a network's weights, kept beside its training.

The average after n updates is of all n networks since its start, each weighing `decay` times the one after it: like
Adam's moments it is freed of the zeros that it began with, so that the first weights are in it as one of n.

Source: arXiv 1803.05407 (averages of weights), arXiv 2103.01946 (of adversarial training).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ablate.learning.objectives import put_back
from ablate.spaces.networks import AverageName

RECALIBRATED_ON = 2048
"""Images, adversarial ones of the average itself, on which batch normalizations are estimated anew."""


class Average:
    """One average of a network that is trained in place.

    Args:
        name: What makes it.
        network: Whose parameters and buffers stay where they are.
    """

    def __init__(self, name: AverageName, network: nn.Module) -> None:
        self.name = name
        self.updates = 0
        self._network = network
        floating = {key: value for key, value in network.state_dict().items() if value.is_floating_point()}
        self._tensors = list(floating.values())
        self._sums = {key: torch.zeros_like(value) for key, value in floating.items()}

    @property
    def sums(self) -> list[Tensor]:
        """All that an update changes."""
        return list(self._sums.values())

    @torch.no_grad()
    def begin(self, epoch: int) -> None:
        """Forget everything, where this is the first epoch that counts."""
        if epoch == self.name.start + 1:
            self.updates = 0
            for total in self._sums.values():
                total.zero_()

    @torch.no_grad()
    def update(self) -> None:
        """Take the network's weights in; one operation, which a captured step repeats. `updates` counts the host."""
        torch._foreach_lerp_(self.sums, self._tensors, 1.0 - self.name.decay)

    def values(self) -> dict[str, Tensor]:
        """The averaged `state_dict`, s_t / (1 - decay^t) of s_t = decay s_(t-1) + (1 - decay) w_t after t updates.

        Each has the shape that it has in the network; what is counted in it is the network's. Only after an update.
        """
        share = 1.0 - self.name.decay**self.updates
        averaged = {key: total / share for key, total in self._sums.items()}
        return {key: averaged.get(key, value.clone()) for key, value in self._network.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """What is needed to go on."""
        return {"updates": self.updates, "sums": dict(self._sums)}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.updates = int(state["updates"])
        for key, total in self._sums.items():
            total.copy_(state["sums"][key])


@contextmanager
def holding(network: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, a network has other weights and buffers, in the same places; afterwards its own."""
    own, mode = network.state_dict(), network.training
    with put_back(own.values()):
        with torch.no_grad():
            for key, value in own.items():
                value.copy_(values[key])
        try:
            yield
        finally:
            network.train(mode)
