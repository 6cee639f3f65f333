"""ResNet-20 and ResNet-18 for small images (arXiv 1512.03385; ResNet-18 with the stem of CIFAR's images)."""

from __future__ import annotations

from torch import Tensor, nn

from ablate.learning.models.layers import activation_module, blocks_per_group, groups_of, initialise, scaled_channels
from ablate.learning.models.registry import register_network
from ablate.spaces.specs import ModelSpec


class BasicBlock(nn.Module):
    """act(bn(conv(act(bn(conv(x))))) + shortcut(x)), the shortcut a 1x1 convolution with BN where shapes differ."""

    def __init__(self, spec: ModelSpec, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.activation1 = activation_module(spec)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.activation2 = activation_module(spec)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y = self.activation1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.activation2(y + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """A 3x3 convolution, groups of n blocks that each halve the image but the first, average pooling, one linear layer.

    Args:
        spec: Depth 2 groups n + 2, width multiplier of all channels, activation.
        num_classes: Number of logits.
        channels: Of each group; the first convolution has those of the first.
        depth: Where the spec tells none.
    """

    def __init__(
        self, spec: ModelSpec, num_classes: int, channels: tuple[int, ...] = (16, 32, 64), depth: int = 20
    ) -> None:
        super().__init__()
        blocks = blocks_per_group(spec, default=depth, outside=2, groups=len(channels))
        inputs = scaled_channels(channels[0], spec)
        self.conv1 = nn.Conv2d(3, inputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.activation1 = activation_module(spec)
        self.groups, inputs = groups_of(BasicBlock, spec, inputs, channels, blocks)
        self.linear = nn.Linear(inputs, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] to [N, num_classes] logits."""
        x = self.activation1(self.bn1(self.conv1(x)))
        x = self.groups(x).mean(dim=(2, 3))
        logits: Tensor = self.linear(x)
        return logits


@register_network("resnet20", depth=True)
def resnet20(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    """ResNet-20: 0.27 M parameters; `depth` may be any 6 n + 2."""
    return ResNet(spec, num_classes)


@register_network("resnet18", depth=True)
def resnet18(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    """ResNet-18 with a 3x3 stem and no pooling behind it: 11.2 M parameters; `depth` may be any 8 n + 2."""
    return ResNet(spec, num_classes, (64, 128, 256, 512), depth=18)
