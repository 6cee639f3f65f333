"""A whole training step as one CUDA graph: captured once for each size of batch, replayed by one call of the host.

A step of PGD-7 training is 1,300 operations, and small networks on a GPU wait for the host to launch them. The graph
reads what differs between steps (places of the images, keys of the random numbers, learning rate) from memory that the
host fills, and computes all else itself. On a CPU steps run as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ablate.core.memory import ran_out_of_memory
from ablate.core.text import named_line
from ablate.learning.averages import Average
from ablate.learning.draws import Drawn, Draws

Step = Callable[[], tuple[Tensor, Tensor]]
"""Makes an update; the mean loss of its batch and the number of correct answers."""

WARM_UP = 2
"""Steps of each batch size that run as they are: libraries choose algorithms, and the optimizer makes its state."""

_LOSS_DIFFERS, _UPDATE_DIFFERS = 0.02, 0.5
"""Relative differences that no rounding makes, but whatever a graph has baked in does."""


class _Trained(Protocol):
    network: nn.Module
    images: Tensor
    labels: Tensor
    device: torch.device

    @property
    def averages(self) -> Sequence[Average]: ...

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...

    def draws(self, epoch: int, step: int, count: int) -> Draws: ...

    def step(self, pixels: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]: ...


def cuda_graph(step: Step) -> Step:
    """A step captured on the current stream, which must not be the default one.

    Args:
        step: Must neither wait for the device nor draw from the host. What it reads has to stay where it is; the
            result keeps `step` alive, and with it all that it refers to.

    Returns:
        A replay of it; its results lie where those of the last replay lay.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads of this process (Ray's, another training's) may call CUDA meanwhile.
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
        results = step()

    def replay(keep: Step = step) -> tuple[Tensor, Tensor]:
        graph.replay()
        return results

    return replay


@dataclass
class _Purposes:
    """What a step draws: learned from the steps that run as they are, in the order of first use."""

    keys: dict[str, None] = field(default_factory=dict)
    kinds: dict[Drawn, None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _NotedDraws(Draws):
    purposes: _Purposes

    def key(self, purpose: str) -> int:
        self.purposes.keys.setdefault(purpose)
        return super().key(purpose)

    def drawn(self, what: Drawn) -> Tensor:
        self.purposes.kinds.setdefault(what)
        return super().drawn(what)


class _ReplayedDraws(Draws):
    """Draws whose keys and numbers lie in memory that the host fills; seed, epoch and step it does not know."""

    def __init__(self, now: Draws, purposes: _Purposes) -> None:
        for name, value in (
            ("count", now.count),
            ("device", now.device),
            ("keys", {purpose: place for place, purpose in enumerate(purposes.keys)}),
            ("places", torch.zeros(max(1, len(purposes.keys)), dtype=torch.int64, device=now.device)),
            ("numbers", {what: now.drawn(what).clone() for what in purposes.kinds}),
        ):
            object.__setattr__(self, name, value)

    keys: dict[str, int]
    places: Tensor
    numbers: dict[Drawn, Tensor]

    def key(self, purpose: str) -> Tensor:  # type: ignore[override]
        return self.places[self.keys[purpose]]

    def drawn(self, what: Drawn) -> Tensor:
        return self.numbers[what]

    def fill(self, now: Draws) -> None:
        """Put the numbers of a step in their places."""
        if self.keys:
            # Else the host would wait for the step before; the numbers are staged before this returns.
            self.places.copy_(torch.tensor([now.key(purpose) for purpose in self.keys]), non_blocking=True)
        for what, numbers in self.numbers.items():
            numbers.copy_(now.drawn(what))


@dataclass
class _Slot:
    """What is known of one size of batch."""

    seen: int = 0
    purposes: _Purposes = field(default_factory=_Purposes)
    draws: _ReplayedDraws | None = None
    places: Tensor | None = None
    replay: Step | None = None

    def fill(self, batch: Tensor, now: Draws) -> None:
        assert self.places is not None and self.draws is not None
        self.places.copy_(batch)
        self.draws.fill(now)


class StepGraphs:
    """Makes a training's steps, by replaying a graph once a size of batch has been seen a few times.

    The first replay is checked against the step as it is: a network or an augmentation that draws random numbers on
    the host, say, would repeat them for ever. Where they differ, or where a step cannot be captured, all steps run as
    they are.

    Args:
        run: The training; its `step`, images, network and optimizer are used.
        capture: Makes a replay of a step.
        warn: Told once, in a line, why steps are not replayed.
    """

    def __init__(
        self, run: _Trained, *, capture: Callable[[Step], Step] = cuda_graph, warn: Callable[[str], None]
    ) -> None:
        self.run, self.capture, self.warn = run, capture, warn
        self.refused = False
        self._slots: dict[int, _Slot] = {}

    def step(self, epoch: int, number: int, batch: Tensor) -> tuple[Tensor, Tensor]:
        """One update.

        Args:
            epoch: From 1.
            number: Of the step in its epoch, from 0.
            batch: [N] int64, places of its images.

        Returns:
            As `TrainingRun.step`; overwritten by the next step.
        """
        slot = self._slots.setdefault(len(batch), _Slot())
        now = self.run.draws(epoch, number, len(batch))
        if slot.replay is not None:
            slot.fill(batch, now)
            return slot.replay()
        if self.refused or slot.seen < WARM_UP:
            slot.seen += 1
            return self._as_it_is(slot, batch, now)
        return self._captured(slot, batch, now)

    def release(self) -> None:
        """Drop all graphs, and the memory that they hold."""
        self._slots.clear()

    def _as_it_is(self, slot: _Slot, batch: Tensor, now: Draws) -> tuple[Tensor, Tensor]:
        noted = _NotedDraws(**vars(now), purposes=slot.purposes)
        return self.run.step(self.run.images[batch], self.run.labels[batch], noted)

    def _captured(self, slot: _Slot, batch: Tensor, now: Draws) -> tuple[Tensor, Tensor]:
        """Capture, replay, go back, and make the step as it is: what it says counts, and judges the replay."""
        run, places = self.run, batch.clone()
        slot.places, slot.draws = places, _ReplayedDraws(now, slot.purposes)
        draws = slot.draws
        slot.fill(batch, now)
        before = _Tensors(run)
        replay, reason = None, ""
        try:
            replay = self.capture(lambda: run.step(run.images[places], run.labels[places], draws))
            loss = replay()[0].item()
            made = before.change()
        except Exception as error:
            if ran_out_of_memory(error):
                raise
            replay, reason = None, named_line(error)
        run.optimizer.zero_grad(set_to_none=True)
        before.restore()
        result = self._as_it_is(slot, batch, now)
        if replay is not None:
            wanted, wanted_loss = before.change(), result[0].item()
            off = ((made - wanted).norm() / wanted.norm().clamp_min(1e-12)).item()
            # A loss that is no number is the training's own failure, and told as such.
            if wanted_loss == wanted_loss and not (
                abs(loss - wanted_loss) <= _LOSS_DIFFERS * max(1.0, abs(wanted_loss)) and off <= _UPDATE_DIFFERS
            ):
                reason = f"its replay differs (loss {loss:.4g} for {wanted_loss:.4g}, update by {100 * off:.0f} %)"
        if reason:
            self.refused = True
            for other in self._slots.values():
                other.replay = None
            self.warn(f"steps run one operation at a time: {reason}")
        else:
            slot.replay = replay
        return result


class _Tensors:
    """All that a step changes, as it was."""

    def __init__(self, run: _Trained) -> None:
        self.parameters = list(run.network.parameters())
        momenta = [
            value for state in run.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
        ]
        self.changing = [tensor.detach() for tensor in (*self.parameters, *run.network.buffers(), *momenta)]
        self.changing += [total for average in run.averages for total in average.sums]
        self.saved = [tensor.clone() for tensor in self.changing]
        self.device = run.device
        self.host, self.generator = torch.get_rng_state(), _generator_state(run.device)

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, saved in zip(self.changing, self.saved, strict=True):
            tensor.copy_(saved)
        torch.set_rng_state(self.host)
        if self.generator is not None:
            torch.cuda.set_rng_state(self.generator, self.device)

    @torch.no_grad()
    def change(self) -> Tensor:
        """What became of the parameters, as one vector."""
        return torch.cat([(p - saved).flatten().float() for p, saved in zip(self.parameters, self.saved, strict=False)])


def _generator_state(device: torch.device) -> Tensor | None:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None
