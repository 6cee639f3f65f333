from __future__ import annotations

import pytest
import torch
from torch import nn

from ablate.learning.models import build_network
from ablate.spaces.specs import ModelSpec, QuantizationSpec

IMAGES = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _norms(spec: ModelSpec) -> list[nn.BatchNorm2d]:
    return [module for module in build_network(spec, 10, 16, 0).modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("arch, small", [("resnet20", {}), ("wrn_34_10", {"width": 0.1}), ("mobilenet_v2", {})])
@pytest.mark.parametrize("options", [{"standardize_only": True}, {"fat": True}, {"bits": 2}], ids=str)
def test_a_fresh_network_of_standardized_weights_has_usable_logits_in_eval_mode(
    arch: str, small: dict[str, float], options: dict[str, int]
) -> None:
    spec = ModelSpec(arch=arch, quantization=QuantizationSpec(**options), **small)  # type: ignore[arg-type]
    logits = build_network(spec, 10, 16, 0).eval()(IMAGES)
    assert logits.isfinite().all()
    assert 1e-4 < logits.std() < 10


def test_statistics_before_the_first_transformed_convolution_and_all_settings_stay() -> None:
    first, *rest = _norms(ModelSpec(depth=8, quantization=QuantizationSpec(bits=4)))
    assert torch.equal(first.running_mean, torch.zeros(16)) and torch.equal(first.running_var, torch.ones(16))
    assert all(not torch.equal(norm.running_var, torch.ones_like(norm.running_var)) for norm in rest)
    assert all(norm.momentum == 0.1 and norm.num_batches_tracked == 0 for norm in [first, *rest])


def test_plain_networks_are_not_touched() -> None:
    for norm in _norms(ModelSpec(depth=8, quantization=QuantizationSpec(activation_bits=4))):
        assert torch.equal(norm.running_var, torch.ones_like(norm.running_var))
