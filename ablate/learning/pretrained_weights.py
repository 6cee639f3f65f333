"""Networks that were trained elsewhere: their weights from a file, and the state of a training of no epochs.

A file is one of tensors alone, nothing in it is unpickled. Its names may be those that the field's code gives: what
wraps a network (`module.`, `model.`) is left out, and what the layers of residual networks are called in PyTorch's and
in robustness papers' code is understood.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ablate.core.errors import DataError, SpecError
from ablate.core.places import local_path
from ablate.core.text import now_ms
from ablate.learning.data import Dataset
from ablate.learning.models import build_network
from ablate.learning.models.layers import Normalized
from ablate.learning.monitoring import PROBE_IMAGES, probe_metrics
from ablate.learning.precision import memory_format
from ablate.learning.state import TrainingError, TrainingState
from ablate.spaces.specs import ModelSpec, TrialSpec

_KEPT_IN = ("state_dict", "model_state_dict", "network", "model", "net")
"""What files call the weights beside an optimizer's state and the like."""

_RENAMED = (
    (re.compile(r"^layer(\d+)\."), lambda found: f"groups.{int(found[1]) - 1}."),
    (re.compile(r"^block(\d+)\.layer\."), lambda found: f"groups.{int(found[1]) - 1}."),
    (re.compile(r"\.(convShortcut|downsample)\."), lambda found: ".shortcut."),
    (re.compile(r"^(fc|classifier)\."), lambda found: "linear."),
)
_OTHERWISE = ((".shortcut.0.", ".shortcut."), ("bn1.", "bn."))  # of pre-activation networks
_STATISTICS = re.compile(r"(^|\.)(mean|mu|std|sigma)$")
_UNUSED = re.compile(r"^sub_block1\.")
"""A copy of the first group that the forward pass of TRADES' WRN never asks."""

_COUNTER = "num_batches_tracked"


def describe(model: ModelSpec, classes: int, image_size: int) -> str:
    """The digest of the weights that a network is to have.

    Args:
        model: With `weights`.
        classes: Number of logits.
        image_size: Height and width in pixels.

    Returns:
        As of `digest`; a file that is as it was is not read again.

    Raises:
        DataError: There is no such file, or it holds no weights.
        SpecError: They are another network's.
    """
    path = _path(model)
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"model.weights: expected a file, got {str(path)!r}: {error.strerror or error}") from error
    return _digest_of(model, classes, image_size, str(path.resolve()), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _digest_of(model: ModelSpec, classes: int, image_size: int, path: str, changed: int, size: int) -> str:
    return digest(load(model, classes, image_size))


def digest(weights: Mapping[str, Tensor]) -> str:
    """What tells weights from others: 20 hexadecimal digits of their names, types, shapes and values."""
    total = hashlib.sha256()
    for name, tensor in weights.items():
        total.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()[:20]


def load(model: ModelSpec, classes: int, image_size: int) -> dict[str, Tensor]:
    """Read the weights that a network is to have.

    Args:
        model: With `weights`.
        classes: Number of logits.
        image_size: Height and width in pixels.

    Returns:
        As of `fitted`, on the CPU.

    Raises:
        DataError: There is no such file, or it holds no weights.
        SpecError: They are another network's; the message names the first layer that differs.
    """
    path = _path(model)
    network = build_network(model, classes, image_size, 0)
    return fitted(read(path), network, f"model.weights: {path}", f"{model.arch} of {classes} classes")


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by the names they have there.

    Args:
        path: A safetensors file, or what `torch.load(weights_only=True)` reads: a `state_dict`, or a dict with one.

    Returns:
        In the order of the file.

    Raises:
        DataError: There is no such file, or no weights in it that can be read without running code.
    """
    try:
        content = _safetensors(path) if _is_safetensors(path) else _torchs(path)
    except OSError as error:
        raise DataError(f"model.weights: expected a file, got {str(path)!r}: {error.strerror or error}") from error
    while isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[name] for name in _KEPT_IN if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise DataError(f"model.weights: expected tensors by the names of layers in {path}, got none")
    return tensors


def fitted(found: Mapping[str, Tensor], network: nn.Module, where: str, what: str) -> dict[str, Tensor]:
    """Weights of a file as the `state_dict` of a network.

    Args:
        found: By the names they have in the file.
        network: That they are for; left as it is.
        where: Names the file in messages.
        what: Names the network in messages.

    Returns:
        Every entry of the network's `state_dict`, in its order, float32 (counters: int64).

    Raises:
        SpecError: A layer is missing, of another shape, or one too many; the message names the first.
    """
    inner = network.network if isinstance(network, Normalized) else network
    own = inner.state_dict()
    own_prefix = "network." if isinstance(network, Normalized) else ""
    left = _unwrapped(found, own)
    statistics = {name: left.pop(name) for name in list(left) if name not in own and _is_statistic(name, left[name])}
    _check_statistics(statistics, network, where)
    by_name: dict[str, tuple[str, Tensor]] = {}
    extra: list[str] = []
    for name, tensor in left.items():
        ours = _named(name, own)
        if ours is not None and ours not in by_name:
            by_name[ours] = (name, tensor)
        elif not _UNUSED.match(name):
            extra.append(name)
    result: dict[str, Tensor] = {}
    for name, wanted in own.items():
        if name not in by_name and name.rpartition(".")[2] == _COUNTER:  # files of older versions have none
            result[own_prefix + name] = torch.zeros_like(wanted)
            continue
        shape = _shape(wanted)
        if name not in by_name:
            got = f"no such layer; {extra[0]} is one too many" if extra else "no such layer"
            raise SpecError(f"{where}: expected the weights of {what}, with {name} of {shape}, got {got}")
        theirs, tensor = by_name[name]
        if tensor.shape != wanted.shape:
            called = "" if theirs == name else f", called {theirs}"
            raise SpecError(
                f"{where}: expected the weights of {what}, with {name} of {shape}, got one of {_shape(tensor)}{called}"
            )
        value = tensor.detach().to(device="cpu", dtype=wanted.dtype).contiguous()
        if not torch.isfinite(value).all():
            raise SpecError(f"{where}: expected finite weights, got nan or infinity in {theirs}")
        result[own_prefix + name] = value
    if extra:
        raise SpecError(f"{where}: expected the weights of {what}, got a layer that it has not: {extra[0]}")
    return result


def untrained(spec: TrialSpec, dataset: Dataset, device: torch.device, weights: Mapping[str, Tensor]) -> TrainingState:
    """The state of a training of no epochs: its network has weights from elsewhere.

    Args:
        spec: The trial.
        dataset: Its first training images are those that every training logs its first activation of.
        device: Where to look at them.
        weights: From `load`.

    Returns:
        After epoch 0, with what a training logs before its first step.

    Raises:
        TrainingError: The network's outputs are no numbers.
    """
    layout = memory_format(device, "float32")
    network = build_network(spec.model, len(dataset.classes), spec.data.image_size, spec.seed)
    network.load_state_dict(weights)
    network.to(device, memory_format=layout).eval()  # type: ignore[call-overload]
    images = torch.from_numpy(dataset.train_images[:PROBE_IMAGES]).to(device).contiguous(memory_format=layout)
    labels = torch.from_numpy(dataset.train_labels[:PROBE_IMAGES]).to(device)
    metrics = probe_metrics(network, images, labels)
    if metrics["train/accuracy_natural"] != metrics["train/accuracy_natural"]:
        raise TrainingError("the outputs of the weights' network are nan or infinite")
    entry: dict[str, Any] = {"epoch": 0, "timestamp_ms": now_ms(), "metrics": metrics}
    return TrainingState(0, {name: tensor.clone() for name, tensor in weights.items()}, {}, [entry], None)


def _path(model: ModelSpec) -> Path:
    return local_path(model.weights or "", "model.weights")


def _is_safetensors(path: Path) -> bool:
    """By its content: eight bytes of length, then JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (len(start) == 9 and start[8:] == b"{" and start[:2] != b"PK")


def _safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise DataError(f"model.weights: expected the package safetensors to read {path}: {error}") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"model.weights: expected a whole safetensors file, got {path}: {error}") from error


def _torchs(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise DataError(
            f"model.weights: expected tensors alone in {path} (safetensors, or what torch.load reads with "
            f"weights_only=True), got a file that cannot be read so: {reason}"
        ) from error


def _unwrapped(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what wraps the network: `module.` of DataParallel, `model.` of a class that normalizes, `1.`."""
    left = dict(found)
    while True:
        firsts = {name.partition(".")[0] for name in left if not _is_statistic(name, left[name])}
        if len(firsts) != 1 or all(name.partition(".")[0] in firsts for name in own):
            return left
        prefix = f"{next(iter(firsts))}."
        if not all(name.startswith(prefix) for name in left if not _is_statistic(name, left[name])):
            return left
        left = {name.removeprefix(prefix): tensor for name, tensor in left.items()}


def _named(name: str, own: Mapping[str, Tensor]) -> str | None:
    """What the network calls a layer of the file."""
    if name in own:
        return name
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    if name in own:
        return name
    for theirs, ours in _OTHERWISE:
        other = name.replace(theirs, ours) if theirs.startswith(".") else re.sub(f"^{re.escape(theirs)}", ours, name)
        if other in own:
            return other
    return None


def _is_statistic(name: str, tensor: Tensor) -> bool:
    return _STATISTICS.search(name) is not None and tensor.numel() == 3


def _check_statistics(found: Mapping[str, Tensor], network: nn.Module, where: str) -> None:
    """A file that tells an input's mean and deviation must be given them as settings, where the key sees them."""
    for name, tensor in found.items():
        setting = "input_mean" if name.rpartition(".")[2] in ("mean", "mu") else "input_std"
        values = tensor.flatten().double()
        given = getattr(network, setting.removeprefix("input_")).flatten() if isinstance(network, Normalized) else None
        neutral = 0.0 if setting == "input_mean" else 1.0
        wanted = torch.full_like(values, neutral) if given is None else given.double()
        if not torch.allclose(values, wanted, atol=5e-4):
            told = "[" + ", ".join(f"{value:.6g}" for value in values.tolist()) + "]"
            got = "none" if given is None else "[" + ", ".join(f"{value:.6g}" for value in given.tolist()) + "]"
            raise SpecError(f"{where}: expected model.{setting}: {told}, as {name} of the file says, got {got}")


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "one number"
