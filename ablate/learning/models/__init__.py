"""Networks: the registry, the four of the paper, those that the field compares on, quantization and FAT."""

from __future__ import annotations

from ablate.learning.models import preact_resnet, resnet, torchvision_models  # noqa: F401 (they register themselves)
from ablate.learning.models.fat import parameter_groups
from ablate.learning.models.inspection import effective_weight, first_activation, is_quantized, named_convolutions
from ablate.learning.models.quantization import (
    frozen_parameters,
    mask_statistics,
    quantize_network,
    transformed_weights,
)
from ablate.learning.models.registry import (
    build_network,
    check_model,
    network_names,
    register_network,
    source_digest,
)

__all__ = [
    "build_network",
    "check_model",
    "effective_weight",
    "first_activation",
    "frozen_parameters",
    "is_quantized",
    "mask_statistics",
    "named_convolutions",
    "network_names",
    "parameter_groups",
    "quantize_network",
    "register_network",
    "source_digest",
    "transformed_weights",
]
