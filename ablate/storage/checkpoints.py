"""A checkpoint's bytes and what is in them: the one reader and writer; torch is imported when one is called.

Tensors and plain data only: nothing is unpickled.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any, Protocol

from ablate.core.errors import StorageError

LAYOUT = 1
"""Of checkpoints; a newer one than this is refused by name."""

_PARTS = ("epoch", "network", "optimizer", "history", "best")
_LATER = ("keeps", "averages", "kept")
"""Parts that only some trainings have; checkpoints of earlier versions never."""


class State(Protocol):
    """What a checkpoint holds of a training, as of `ablate.learning.state.TrainingState`."""

    epoch: int
    network: dict[str, Any]
    optimizer: dict[str, Any]
    history: list[dict[str, Any]]
    best: dict[str, Any] | None
    keeps: list[str]
    averages: dict[str, dict[str, Any]]
    kept: dict[str, dict[str, Any]]


def save_state(state: State) -> bytes:
    """A training's state as the bytes of a checkpoint."""
    later = {part: value for part in _LATER if (value := getattr(state, part))}
    return _bytes({"layout": LAYOUT, **{part: getattr(state, part) for part in _PARTS}, **later})


def load_state(content: bytes) -> dict[str, Any]:
    """The parts of a `State` in a checkpoint by name, on the CPU.

    Raises:
        StorageError: It is no checkpoint, or its layout is another version's.
    """
    import torch

    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        layout = loaded.get("layout")
        if layout == LAYOUT:
            return {part: loaded[part] for part in _PARTS} | {part: loaded[part] for part in _LATER if part in loaded}
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise StorageError(f"expected a checkpoint, got none that can be read ({type(error).__name__})") from error
    raise StorageError(
        f"expected a checkpoint of layout {LAYOUT}, got {layout}; use the version of ablate that wrote it"
    )


def save_network(network: Mapping[str, Any]) -> bytes:
    """A network's `state_dict` alone, as `torch.load` reads it."""
    return _bytes(network)


def load_network(content: bytes) -> dict[str, Any]:
    """What `save_network` wrote, on the CPU.

    Raises:
        StorageError: It is nothing of that kind.
    """
    import torch

    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise StorageError(f"expected a network, got none that can be read ({type(error).__name__})") from error
    if not isinstance(loaded, dict):
        raise StorageError(f"expected a network, got {type(loaded).__name__}")
    return loaded


def _bytes(content: Mapping[str, Any]) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()
