from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ablate.analysis.layers import collect_activations, find_layers
from ablate.analysis.similarity import gram


class Gate(nn.Module):
    """Squeeze and excitation under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.two(torch.relu(self.one(x.mean((2, 3), keepdim=True)))))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 5)  # defined first, executed last
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.se = Gate()
        self.pointwise = nn.Conv2d(4, 4, 1)
        self.conv2 = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.shortcut = nn.Sequential(nn.Conv2d(4, 8, 1), nn.AvgPool2d(2))
        self.strided = nn.Conv2d(4, 8, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.se(torch.relu(self.norm(self.conv1(x))))
        x = self.pointwise(self.pointwise(x))
        x = self.conv2(x) + self.shortcut(x) + self.strided(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Small()


def test_layers_come_in_the_order_of_execution_with_their_outputs(network) -> None:
    images = torch.rand(2, 3, 8, 8)
    names, outputs = collect_activations(network, images)
    assert names == ["conv1", "pointwise", "pointwise#2", "conv2", "head"]
    assert [tuple(x.shape) for x in outputs] == [(2, 4, 8, 8)] * 3 + [(2, 8, 4, 4), (2, 5)]
    torch.testing.assert_close(outputs[0], network.conv1(images))
    network.eval()
    torch.testing.assert_close(outputs[-1], network(images))
    assert not any(x.requires_grad for x in outputs)


def test_the_network_is_left_as_it_was_found(network) -> None:
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    collect_activations(network, torch.rand(2, 3, 8, 8))
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_hooks_go_also_when_the_network_fails(network) -> None:
    with pytest.raises(RuntimeError):
        collect_activations(network, torch.rand(2, 7, 8, 8))
    assert not any(module._forward_hooks for module in network.modules())


def test_only_what_the_transform_makes_is_kept(network) -> None:
    images = torch.rand(6, 3, 8, 8)
    _, outputs = collect_activations(network, images)
    _, grams = collect_activations(network, images, transform=gram)
    assert all(torch.equal(x, gram(y)) for x, y in zip(grams, outputs, strict=True))


def test_a_compiled_network_has_the_layers_of_its_original(network) -> None:
    compiled = torch.compile(network, backend="eager")
    images = torch.rand(2, 3, 8, 8)
    compiled(images)
    assert collect_activations(compiled, images)[0] == collect_activations(network, images)[0]


def test_torchvisions_efficientnet_and_mobilenet() -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        efficient, mobile, residual = models.efficientnet_b0(), models.mobilenet_v2(), models.resnet18()
    names = [name for name, _ in find_layers(efficient)]
    assert not any(".fc1" in name or ".fc2" in name for name in names)
    assert len(names) == 1 + 15 * 3 + 2 + 1 + 1  # stem, 15 blocks of three and one of two, last convolution, classifier
    assert len(find_layers(mobile)) == 53 and len(find_layers(residual)) == 18
