"""torchvision's MobileNet-V2 and EfficientNet-B0, not pretrained, with their early strides removed for small images.

For images of at most 64 pixels these strides are 1 instead of 2, so that a 32x32 image reaches the last block as 4x4:

- MobileNet-V2: the first convolution, and the first block of the stage with 24 channels.
- EfficientNet-B0: the first convolution, and the first block of the stage with 24 channels.

`activation: relu`, the default, leaves each its own rectifier: ReLU6 in MobileNet-V2, SiLU in EfficientNet-B0, as in
the networks of Table 4. `activation: hardtanh` puts hardtanh in the place of every one of them, also in
EfficientNet's squeeze-and-excitation, whose sigmoid gate stays.

Dropout and stochastic depth are 0 in both: they would draw from the global random state, and a replayed step must draw
the same numbers.

torchvision takes seconds to import and only these two networks need it: they import it when they are built.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from ablate.learning.models.layers import Hardtanh
from ablate.learning.models.registry import register_network
from ablate.spaces.specs import ModelSpec

LARGEST_SMALL_IMAGE = 64


@register_network("mobilenet_v2")
def mobilenet_v2(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    """MobileNet-V2 (arXiv 1801.04381): 2.24 M parameters.

    `width` is torchvision's multiplier: channels are rounded to multiples of 8, and the last 1280 are never fewer.
    """
    from torchvision.models import MobileNetV2

    early = _early_stride(image_size)
    stages = [
        # expansion, channels, blocks, stride
        [1, 16, 1, 1],
        [6, 24, 2, early],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    network: nn.Module = MobileNetV2(
        num_classes=num_classes, width_mult=spec.width, inverted_residual_setting=stages, dropout=0.0
    )
    return _adapted(network, spec, early)


@register_network("efficientnet_b0")
def efficientnet_b0(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    """EfficientNet-B0 (arXiv 1905.11946): 4.0 M parameters.

    `width` is torchvision's multiplier: channels are rounded to multiples of 8.
    """
    from torchvision.models import EfficientNet
    from torchvision.models.efficientnet import MBConvConfig

    early = _early_stride(image_size)
    stage = partial(MBConvConfig, width_mult=spec.width)
    stages = [
        # expansion, kernel, stride, input channels, output channels, blocks
        stage(1, 3, 1, 32, 16, 1),
        stage(6, 3, early, 16, 24, 2),
        stage(6, 5, 2, 24, 40, 2),
        stage(6, 3, 2, 40, 80, 3),
        stage(6, 5, 1, 80, 112, 3),
        stage(6, 5, 2, 112, 192, 4),
        stage(6, 3, 1, 192, 320, 1),
    ]
    network: nn.Module = EfficientNet(stages, dropout=0.0, stochastic_depth_prob=0.0, num_classes=num_classes)
    return _adapted(network, spec, early)


def _early_stride(image_size: int) -> int:
    return 1 if image_size <= LARGEST_SMALL_IMAGE else 2


def _adapted(network: nn.Module, spec: ModelSpec, stride: int) -> nn.Module:
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.stride = (stride, stride)
    if spec.activation == "hardtanh":
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, (nn.ReLU6, nn.SiLU)):
                    setattr(module, name, Hardtanh(inplace=True))
    return network
