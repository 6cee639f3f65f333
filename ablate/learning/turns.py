"""Several trainings in one process, a step each in turn.

Work that is done in turns is a generator: it rests at each `yield`, and what it returns is its result. What a process
has only once (the default generators' states, the current CUDA stream, how convolutions round) is a training's own
while it has its turn, and is put back after it, so that its numbers are those that it gives alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")

Turns = Generator[None, None, Result]
"""Work that rests at each `yield`, and returns its result."""


def finish(work: Turns[Result]) -> Result:
    """Do work to its end, without a rest."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result


def in_turn(works: Mapping[str, Turns[Result]], ended: Callable[[str, Result], None]) -> None:
    """Do several works, each a step in turn, until all of them have ended.

    Args:
        works: By name; each begins with its first turn, so one after another.
        ended: Called with each one's name and result, as soon as it has ended.

    Raises:
        BaseException: What one of them raised; the others are broken off where they rest.
    """
    left = dict(works)
    try:
        while left:
            for name in list(left):
                try:
                    next(left[name])
                except StopIteration as end:
                    del left[name]
                    ended(name, end.value)
    finally:
        for work in left.values():
            work.close()


def within(turn: Callable[[], AbstractContextManager[object]], work: Turns[Result]) -> Turns[Result]:
    """The same work, with something around each of its turns.

    Args:
        turn: Makes what is around one.
        work: Also broken off inside it.
    """
    try:
        while True:
            with turn():
                try:
                    next(work)
                except StopIteration as end:
                    result: Result = end.value
                    return result
            yield
    finally:
        with turn():
            work.close()


class OwnRandomNumbers:
    """The state of torch's default generators as one training has it; at first, as they are when this is made.

    Args:
        device: Of the training. A GPU's generator is exchanged and not rewritten: graphs read its state when they are
            replayed, and that of another stream must not be changed under them.
    """

    def __init__(self, device: torch.device) -> None:
        self._host = torch.get_rng_state()
        self._generator: torch.Generator | None = None
        if device.type == "cuda" and torch.cuda.is_available():
            torch.cuda.init()  # type: ignore[no-untyped-call]
            index = torch.cuda.current_device() if device.index is None else device.index
            self._generator = torch.cuda.default_generators[index]
            self._state = self._generator.clone_state()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Inside, the default generators go on where they were at the end of the last turn."""
        host = torch.get_rng_state()
        torch.set_rng_state(self._host)
        outside = None
        if self._generator is not None:
            outside = self._generator.graphsafe_get_state()
            self._generator.graphsafe_set_state(self._state)
        try:
            yield
        finally:
            self._host = torch.get_rng_state()
            torch.set_rng_state(host)
            if self._generator is not None and outside is not None:
                self._generator.graphsafe_set_state(outside)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, the default generators begin at a seed; outside they are as they were."""
    # For layers that draw random numbers, such as dropout in a user's network: the same ones in a resumed epoch.
    # torch.manual_seed would reseed every accelerator, also those whose state is not restored here.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def convolutions_in(precision: str) -> Iterator[None]:
    """Inside, float32 convolutions and matrix products on a GPU are TF32's with `tf32`, and IEEE's else.

    cuDNN tries its algorithms out for each shape, of which training has few. A CPU has no TF32 and computes in float32.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = precision == "tf32"
    cudnn.benchmark = not cudnn.deterministic  # what is chosen by time may be another one the next time
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32 = before


class OwnStream:
    """A stream of its own for a training's work on a GPU: the default one cannot be captured, and only work of
    different streams overlaps.

    Args:
        device: Of the training; on a CPU there is nothing to it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Inside, work goes to it."""
        with torch.cuda.stream(self._stream):
            yield

    def leave(self) -> None:
        """What the current stream does from now on comes after everything done here."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
