"""Networks by name, and how one is built from a spec and a seed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ablate.core.errors import SpecError
from ablate.core.randomness import stream
from ablate.core.registry import Registry
from ablate.learning.models import pointwise  # noqa: F401 (it mends a gradient that any network may ask for)
from ablate.learning.models.calibration import calibrate
from ablate.learning.models.layers import Normalized
from ablate.learning.models.quantization import quantize_network
from ablate.spaces.specs import ModelSpec

NetworkFactory = Callable[[ModelSpec, int, int], nn.Module]
"""Makes a network of (spec, number of classes, image size in pixels); it returns logits of images in [0, 1]."""

_networks: Registry[NetworkFactory] = Registry("model.arch")
_with_depth: set[str] = set()


def register_network(name: str, *, depth: bool = False) -> Callable[[NetworkFactory], NetworkFactory]:
    """The decorator that makes a network available as `model.arch: <name>`, for a user's own module too.

    The factory is called on the CPU with seeded random numbers and returns the full-precision network; quantization
    follows. Activations should be modules (`nn.ReLU()`, one for each use), or they cannot be quantized. A network
    should draw no random numbers when it is called: dropout would make a replayed step another step.

    Args:
        name: What space files call it.
        depth: Whether the factory honours `model.depth`; where it does not, giving a depth is an error.

    Raises:
        SpecError: The name belongs to another network.
    """

    def decorate(factory: NetworkFactory) -> NetworkFactory:
        _networks.register(name)(factory)
        _with_depth.discard(name)
        if depth:
            _with_depth.add(name)
        return factory

    return decorate


def network_names() -> list[str]:
    """The names that `model.arch` may take, in the order of their registration."""
    return _networks.names()


def source_digest(name: str) -> str | None:
    """What tells one version of a user's network from another; None for the networks of ablate.

    Raises:
        SpecError: No network has this name.
    """
    return _networks.source_digest(name)


def check_model(spec: ModelSpec) -> None:
    """Refuse a spec that no network can be built from, without building one.

    Raises:
        SpecError: The network is unknown, or has a fixed depth and one is given.
    """
    _networks.get(spec.arch)
    if spec.depth is not None and spec.arch not in _with_depth:
        raise SpecError(
            f"expected no model.depth with model.arch {spec.arch!r}, whose depth is fixed, got {spec.depth}"
        )


def build_network(spec: ModelSpec, num_classes: int, image_size: int, seed: int) -> nn.Module:
    """A freshly initialised network, a function of its arguments alone.

    It is built on the CPU whatever the default device is, so that a seed means the same weights everywhere; the global
    random state is left as it was. Networks that differ only in quantization start from the same weights.

    Args:
        spec: Which network.
        num_classes: Number of logits.
        image_size: Height and width of the images in pixels.
        seed: The trial's seed.

    Returns:
        The network on the CPU, in training mode, mapping [N, 3, H, W] in [0, 1] to [N, num_classes] logits.

    Raises:
        SpecError: The network is unknown, or cannot be built with these settings.
    """
    check_model(spec)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # torch.manual_seed would reseed the accelerators too, which fork_rng would have to know of to restore.
        torch.default_generator.manual_seed(stream(seed, "init"))
        network = _networks.get(spec.arch)(spec, num_classes, image_size)
        if not isinstance(network, nn.Module):
            raise SpecError(
                f"expected model.arch {spec.arch!r} to return a torch.nn.Module, got {type(network).__name__}"
            )
        if spec.input_mean is not None and spec.input_std is not None:
            network = Normalized(network, spec.input_mean, spec.input_std)
        quantize_network(network.train(), spec.quantization)
        calibrate(network, image_size, stream(seed, "calibration"))
        return network
