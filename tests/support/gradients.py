"""Small real trainings, every gradient of every convolution in them beside torch's own in float64.

`python -m tests.support.gradients THREADS` in a process of its own: the fault that it looks for may end the process. It
names each training before it begins, so that the last line says which one that was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ablate.learning.data import Dataset
from ablate.learning.models import pointwise, register_network
from ablate.learning.training import train
from ablate.spaces.specs import ModelSpec, TrialSpec

ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""Error relative to the largest entry; a bfloat16 has 8 bits."""

COUNT, BATCH = 61, 32  # the last batch of an epoch has 29 images
SIZE = 16


class Checked(TorchDispatchMode):
    """Inside, gradients of convolutions are compared with float64's.

    Attributes:
        strided: Weight gradients compared of strided 1x1 convolutions with fewer channels than the block.
    """

    def __init__(self) -> None:
        super().__init__()
        self.strided = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution_backward.default:
            self._compare(args, result)
        return result

    def _compare(self, args: tuple[Any, ...], result: tuple[Tensor | None, ...]) -> None:
        weight, stride, wanted = args[2], args[4], args[10]
        exact = [part.double() if isinstance(part, Tensor) else part for part in args]
        # Of torch itself, past what stands before it; oneDNN has no float64.
        keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
        expected = pointwise.TORCHS_OWN.call_boxed(keys, *exact)
        for got, right, asked in zip(result, expected, wanted, strict=True):
            if not asked:
                continue
            assert got is not None
            error = (got.double() - right).abs().max() / right.abs().max().clamp_min(1e-30)
            assert error <= ALLOWED[got.dtype], f"{error} in {tuple(weight.shape)}, stride {stride}, {got.dtype}"
        narrow = weight.shape[1] < pointwise.BLOCK and all(size == 1 for size in weight.shape[2:])
        self.strided += bool(narrow and max(stride) > 1 and wanted[1])


class Own(nn.Module):
    """What a user's network may hold: layers of many kinds, and a convolution that is no layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(12, 12, 1, stride=(2, 1)),
                nn.Conv2d(12, 24, 1, stride=2, padding=(1, 2)),
                nn.Conv2d(24, 24, 1, stride=3, groups=3),
                nn.Conv2d(12, 8, 1, stride=2, padding=1, padding_mode="circular"),
            ]
        )
        self.layers[3].weight.requires_grad_(False)  # its bias learns alone
        self.weight = nn.Parameter(torch.randn(10, 12, 1, 1) * 0.3)
        self.row = nn.Conv1d(8, 8, 1, stride=2)
        self.last = nn.LazyLinear(classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        sides = [
            self.layers[2](self.layers[1](self.layers[0](x))),
            F.conv2d(x, self.weight, stride=2),
            self.row(self.layers[3](x).flatten(2)),
        ]
        logits: Tensor = self.last(torch.cat([side.flatten(1) for side in sides], dim=1))
        return logits


@register_network("test-own")
def own(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    network = Own(num_classes)
    network(torch.zeros(2, 3, image_size, image_size))
    return network


def dataset() -> Dataset:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (COUNT, 3, SIZE, SIZE), dtype=np.uint8)
    labels = np.arange(COUNT, dtype=np.int64) % 3
    return Dataset("digits", "noise", ("a", "b", "c"), images, labels, images[:4], labels[:4])


TRAININGS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    # name: model, training, whether it has the strided convolutions that this is about
    "ResNet-8, width 0.25": ({"depth": 8, "width": 0.25}, {}, True),
    "ResNet-8, width 0.5": ({"depth": 8, "width": 0.5}, {}, True),
    "ResNet-8, width 0.5, bfloat16": ({"depth": 8, "width": 0.5}, {"precision": "bfloat16"}, True),
    "ResNet-8, width 0.75, in batches of 7": ({"depth": 8, "width": 0.75}, {"batch_size": 7}, True),
    "ResNet-8, whole width": ({"depth": 8}, {}, False),
    "ResNet-8, width 0.5, 4 bits, FAT": (
        {"depth": 8, "width": 0.5, "quantization": {"bits": 4, "fat": True}},
        {},
        True,
    ),
    "WRN-10, width 0.05": ({"arch": "wrn_34_10", "depth": 10, "width": 0.05}, {}, True),
    "WRN-10, width 0.05, bfloat16": (
        {"arch": "wrn_34_10", "depth": 10, "width": 0.05},
        {"precision": "bfloat16"},
        True,
    ),
    "MobileNet-V2, width 0.1": ({"arch": "mobilenet_v2", "width": 0.1}, {}, False),
    "a user's network": ({"arch": "test-own"}, {}, True),
    "a user's network, bfloat16": ({"arch": "test-own"}, {"precision": "bfloat16"}, True),
    "a user's network, attacked as it trains": ({"arch": "test-own"}, {"attack": {"network_mode": "train"}}, True),
}


def check(threads: int, say: Callable[[str], None] = print) -> None:
    """Run every training, and compare.

    Args:
        threads: CPU threads of torch.
        say: Told the name of each before it begins.
    """
    torch.set_num_threads(threads)
    for name, (model, training, strided) in TRAININGS.items():
        say(f"{name}, {threads} threads")
        attack = {"steps": 1, **training.get("attack", {})}
        spec = TrialSpec.model_validate(
            {
                "data": {"name": "digits", "image_size": SIZE},
                "model": model,
                "training": {"epochs": 1, "batch_size": BATCH, "crop_padding": 1, **training, "attack": attack},
            }
        )
        with Checked() as checked:
            train(spec, dataset(), device=torch.device("cpu"))
        assert (checked.strided > 0) == strided, name


if __name__ == "__main__":
    check(int(sys.argv[1]), lambda line: print(line, flush=True))
    print("all right")
