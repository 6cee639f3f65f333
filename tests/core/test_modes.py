from __future__ import annotations

import pytest
from torch import nn

from ablate.core.modes import evaluating, frozen


def make() -> nn.Module:
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    network[0].bias.requires_grad_(False)
    network[1][1].eval()
    return network


def wants(network: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in network.parameters()]


def modes(network: nn.Module) -> list[bool]:
    return [module.training for module in network.modules()]


def test_frozen_asks_for_nothing_and_restores_who_asked() -> None:
    network = make()
    before = wants(network)
    with frozen(network):
        assert not any(wants(network))
        assert modes(network) == modes(make())
    assert wants(network) == before


def test_evaluating_restores_each_module_also_after_an_exception() -> None:
    network = make()
    with pytest.raises(RuntimeError, match="inside"), evaluating(network):
        assert not any(modes(network)) and not any(wants(network))
        raise RuntimeError("inside")
    assert modes(network) == modes(make()) and wants(network) == wants(make())
