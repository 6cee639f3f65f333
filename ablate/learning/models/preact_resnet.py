"""Pre-activation residual networks (arXiv 1603.05027): WRN-34-10 and WRN-28-10 (arXiv 1605.07146), PreActResNet-18."""

from __future__ import annotations

from torch import Tensor, nn

from ablate.learning.models.layers import activation_module, blocks_per_group, groups_of, initialise, scaled_channels
from ablate.learning.models.registry import register_network
from ablate.spaces.specs import ModelSpec

WIDENING = 10
"""Of the groups of WRN-n-10 beside those of a network of width 1; the first convolution stays narrow."""


class PreActBlock(nn.Module):
    """conv(act(bn(conv(a)))) + shortcut with a = act(bn(x)).

    The shortcut is x itself, or a 1x1 convolution of a where the numbers of channels differ.
    """

    def __init__(self, spec: ModelSpec, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.activation1 = activation_module(spec)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.activation2 = activation_module(spec)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        a = self.activation1(self.bn1(x))
        y: Tensor = self.conv2(self.activation2(self.bn2(self.conv1(a))))
        return y + (x if self.shortcut is None else self.shortcut(a))


class PreActResNet(nn.Module):
    """A 3x3 convolution, groups of n blocks that each halve the image but the first, BN, activation, pooling, linear.

    There is no dropout between the convolutions, as in the networks that adversarial training is compared on.

    Args:
        spec: Depth 2 groups n + `outside`, width multiplier of all channels, activation.
        num_classes: Number of logits.
        first: Channels of the first convolution.
        channels: Of each group.
        depth: Where the spec tells none.
        outside: What the depth in the network's name counts beside the blocks' layers.
    """

    def __init__(
        self, spec: ModelSpec, num_classes: int, *, first: int, channels: tuple[int, ...], depth: int, outside: int
    ) -> None:
        super().__init__()
        blocks = blocks_per_group(spec, default=depth, outside=outside, groups=len(channels))
        inputs = scaled_channels(first, spec)
        self.conv1 = nn.Conv2d(3, inputs, 3, padding=1, bias=False)
        self.groups, inputs = groups_of(PreActBlock, spec, inputs, channels, blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.activation = activation_module(spec)
        self.linear = nn.Linear(inputs, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] to [N, num_classes] logits."""
        x = self.groups(self.conv1(x))
        x = self.activation(self.bn(x)).mean(dim=(2, 3))
        logits: Tensor = self.linear(x)
        return logits


def wide_resnet(spec: ModelSpec, num_classes: int, depth: int) -> PreActResNet:
    """WRN-n-10: 16 first kernels, three groups with 160, 320, 640 channels.

    A width of 0.1 undoes the widening, and leaves 2 of the 16 first kernels.

    Args:
        spec: Depth 6 n + 4, width, activation.
        num_classes: Number of logits.
        depth: Where the spec tells none.
    """
    channels = (16 * WIDENING, 32 * WIDENING, 64 * WIDENING)
    return PreActResNet(spec, num_classes, first=16, channels=channels, depth=depth, outside=4)


@register_network("wrn_34_10", depth=True)
def wrn_34_10(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    """WRN-34-10: 46.2 M parameters; `depth` may be any 6 n + 4."""
    return wide_resnet(spec, num_classes, 34)


@register_network("wrn_28_10", depth=True)
def wrn_28_10(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    """WRN-28-10: 36.5 M parameters; `depth` may be any 6 n + 4."""
    return wide_resnet(spec, num_classes, 28)


@register_network("preact_resnet18", depth=True)
def preact_resnet18(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    """PreActResNet-18 with batch normalization and activation before its pooling: 11.2 M parameters.

    `depth` may be any 8 n + 2.
    """
    channels = (64, 128, 256, 512)
    return PreActResNet(spec, num_classes, first=64, channels=channels, depth=18, outside=2)
