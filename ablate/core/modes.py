"""A network's modes, changed for a while and put back: frozen parameters, evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside; afterwards those that did ask again.

    An attack needs gradients of the images alone. Eager autograd leaves the others out by itself; a compiled network
    computes every gradient that is asked for, so it must not be asked.

    Args:
        network: Any module; its parameters are changed in place and restored, also after an exception.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and frozen parameters inside; afterwards every module is in the mode it was in.

    Args:
        network: Any module. Modes are restored module by module: one that was kept in evaluation mode stays there.
    """
    training = network.training
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with frozen(network):
            yield
    finally:
        network.train(training)
        for module, mode in modes:
            module.training = mode
