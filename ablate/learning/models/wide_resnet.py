"""WRN-34-10: a wide, pre-activation residual network (arXiv 1605.07146)."""

from __future__ import annotations

from torch import Tensor, nn

from ablate.learning.models.layers import activation_module, blocks_per_group, initialise, scaled_channels
from ablate.learning.models.registry import register_network
from ablate.spaces.specs import ModelSpec

WIDENING = 10


class WideBlock(nn.Module):
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


class WideResNet(nn.Module):
    """A 3x3 convolution of 16 kernels, three groups of n blocks with 160, 320, 640 channels, BN, pooling, linear.

    There is no dropout between the convolutions, as in the networks that adversarial training is compared on.

    Args:
        spec: Depth 6 n + 4 (34 by default), width multiplier of all channels (0.1 undoes the widening by 10, and
            leaves 2 of the 16 first kernels), activation.
        num_classes: Number of logits.
    """

    def __init__(self, spec: ModelSpec, num_classes: int) -> None:
        super().__init__()
        blocks = blocks_per_group(spec, default=34, outside=4)
        inputs = scaled_channels(16, spec)
        self.conv1 = nn.Conv2d(3, inputs, 3, padding=1, bias=False)
        groups: list[nn.Module] = []
        for group, count in enumerate((16, 32, 64)):
            layers: list[nn.Module] = []
            outputs = scaled_channels(count * WIDENING, spec)
            for block in range(blocks):
                layers.append(WideBlock(spec, inputs, outputs, stride=2 if group > 0 and block == 0 else 1))
                inputs = outputs
            groups.append(nn.Sequential(*layers))
        self.groups = nn.Sequential(*groups)
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


@register_network("wrn_34_10", depth=True)
def wrn_34_10(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    """WRN-34-10: 46.2 M parameters; `depth` may be any 6 n + 4."""
    return WideResNet(spec, num_classes)
