"""Images on a device, once for all trainings of a process that use them in one layout."""

from __future__ import annotations

import hashlib
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Resident:
    """Images and their labels, which nobody changes; alive for as long as somebody holds them.

    Args:
        source: What they were made of: while they live no other images have its place in memory.
        images: [N, 3, H, W] uint8.
        labels: [N] int64.
    """

    def __init__(self, source: tuple[npt.NDArray[Any], ...], images: Tensor, labels: Tensor) -> None:
        self.source, self.images, self.labels = source, images, labels


held: WeakValueDictionary[tuple[object, ...], Resident] = WeakValueDictionary()


def resident(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64] | None,
    device: torch.device,
    layout: torch.memory_format,
) -> Resident:
    """Images on a device: those that are there already, where they are.

    Args:
        images: [M, 3, H, W], all of a split; not changed afterwards.
        labels: [M].
        places: Which of them, in this order; None: all.
        device: Where.
        layout: How they lie in memory.

    Returns:
        What has to be kept for as long as its tensors are used.
    """
    which = None if places is None else hashlib.blake2b(places.tobytes()).digest()
    name = (id(images), id(labels), which, device, layout)
    found = held.get(name)
    if found is None:
        chosen = (images, labels) if places is None else (images[places], labels[places])
        pixels, truth = (torch.from_numpy(each).to(device) for each in chosen)
        found = Resident((images, labels), pixels.contiguous(memory_format=layout), truth)
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()  # another training's stream may read them next
        held[name] = found
    if device.type == "cuda":
        for tensor in (found.images, found.labels):
            # Given to others only after what this stream has queued, whichever training ends last.
            tensor.record_stream(torch.cuda.current_stream(device))
    return found
