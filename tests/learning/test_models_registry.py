from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from ablate.core.errors import SpecError
from ablate.core.registry import temporary_registrations
from ablate.learning.models import (
    build_network,
    check_model,
    network_names,
    register_network,
    source_digest,
)
from ablate.spaces.specs import ModelSpec, QuantizationSpec

SPECS = [
    ModelSpec(depth=8),
    ModelSpec(arch="mobilenet_v2", width=0.25),
    ModelSpec(arch="efficientnet_b0", width=0.25),
    ModelSpec(arch="wrn_34_10", depth=10, width=0.1),
]


def define(*, depth: bool = True, returns_none: bool = False) -> None:
    """Register `tiny`; again is as a notebook's cell that is run again."""

    @register_network("tiny", depth=depth)
    def make(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
        network = nn.Sequential(nn.Conv2d(3, spec.depth or 4, image_size), nn.Flatten(), nn.Linear(4, num_classes))
        return None if returns_none else network  # type: ignore[return-value]


@pytest.fixture
def tiny() -> Iterator[str]:
    with temporary_registrations():
        define()
        yield "tiny"


def test_the_networks_of_the_paper_are_there_and_have_no_source_digest() -> None:
    assert {"resnet20", "mobilenet_v2", "efficientnet_b0", "wrn_34_10"} <= set(network_names())
    assert all(source_digest(name) is None for name in ("resnet20", "wrn_34_10"))


def test_a_user_registers_a_network_with_one_decorated_function(tiny: str) -> None:
    network = build_network(ModelSpec(arch=tiny), 5, 8, 0)
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 5)
    digest = source_digest(tiny)
    assert digest is not None and len(digest) == 64


def test_a_network_says_whether_its_depth_is_a_choice(tiny: str) -> None:
    check_model(ModelSpec(arch=tiny, depth=4))
    define(depth=False)
    with pytest.raises(SpecError, match=r"expected no model\.depth"):
        check_model(ModelSpec(arch=tiny, depth=4))


def test_an_unknown_network_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SpecError, match=r"expected model\.arch .*got 'resnet_20'; did you mean 'resnet20'\?"):
        build_network(ModelSpec(arch="resnet_20"), 10, 32, 0)


def test_a_factory_that_returns_no_module_is_refused(tiny: str) -> None:
    define(returns_none=True)
    with pytest.raises(SpecError, match=r"expected model\.arch 'tiny' to return a torch\.nn\.Module, got NoneType"):
        build_network(ModelSpec(arch=tiny), 10, 32, 0)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.arch)
def test_initialisation_is_a_function_of_the_seed_and_leaves_the_global_state(spec: ModelSpec) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = build_network(spec, 10, 16, 3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    with torch.device("meta"):
        same = build_network(spec, 10, 16, 3).state_dict()
    other = build_network(spec, 10, 16, 4).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.arch)
def test_quantized_networks_start_from_the_weights_of_the_plain_one(spec: ModelSpec) -> None:
    plain = dict(build_network(spec, 10, 16, 0).named_parameters())
    quantized = spec.model_copy(update={"quantization": QuantizationSpec(bits=2, fat=True)})
    learned = dict(build_network(quantized, 10, 16, 0).named_parameters())
    assert all(torch.equal(learned[name], plain[name]) for name in plain)
    assert all(name.endswith(("scale", "mask.weight")) for name in learned.keys() - plain.keys())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.arch)
def test_full_precision_is_bit_identical_to_the_plain_network(spec: ModelSpec) -> None:
    images = torch.rand(2, 3, 16, 16)
    explicit = spec.model_copy(update={"quantization": QuantizationSpec(bits=32, weights="max_abs")})
    plain, same = build_network(spec, 10, 16, 0), build_network(explicit, 10, 16, 0)
    assert [type(m) for m in plain.modules()] == [type(m) for m in same.modules()]
    assert torch.equal(plain(images), same(images))
