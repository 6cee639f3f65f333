"""The named analyses: any network, the weights that are really used, a bounded number of images, known values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ablate.analysis import examples
from ablate.analysis.registry import (
    AnalysisContext,
    AnalysisResult,
    analysis_names,
    declared_scalars,
    get_analysis,
)
from ablate.analysis.similarity import linear_cka
from ablate.analysis.spectrum import kernel_smoothness
from ablate.analysis.weights import effective_weight, first_quantized, running_convolutions, stage_convolutions
from ablate.learning.models import build_network
from ablate.planning.metrics import matches
from ablate.spaces.specs import ModelSpec, QuantizationSpec

SIZE = 16
SHIPPED = ["spectrum", "cka", "first_kernels", "kernel_spectra", "quantized_kernels", "gradient_spectrum"]


def images_of(count: int, size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def context_of(
    network: nn.Module, count: int = 8, change: Callable[[Tensor], Tensor] = lambda x: x, batch_size: int = 5
) -> AnalysisContext:
    images = images_of(count)
    labels = torch.zeros(count, dtype=torch.int64)
    return AnalysisContext(
        network.eval(), images, labels, lambda places: change(images[places].float() / 255.0), 0, batch_size
    )


def network_of(arch: str = "resnet20", width: float = 0.25, size: int = SIZE, **quantization: object) -> nn.Module:
    spec = ModelSpec(arch=arch, width=width, quantization=QuantizationSpec.model_validate(quantization))
    return build_network(spec, 5, size, 3)


def run(name: str, network: nn.Module, **settings: object) -> AnalysisResult:
    found = get_analysis(name)(context_of(network, **settings))  # type: ignore[arg-type]
    declared = declared_scalars(name)
    assert declared is not None and all(matches(scalar, declared) for scalar in found.scalars)
    return found


def white(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(int(x.sum()) % 1000)
    return x + 0.03 * torch.randn(x.shape, generator=generator)


class Sandwich(nn.Module):
    """No naming convention, one layer that runs twice, no normalization; defined in another order than it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 4)
        self.b = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.a = nn.Conv2d(3, 6, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(torch.relu(self.a(x)))
        x = self.b(nn.functional.avg_pool2d(x, 2))
        return self.out(x.mean(dim=(2, 3)))


class OnlyLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * SIZE * SIZE, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def test_they_are_registered() -> None:
    assert set(SHIPPED) <= set(analysis_names())


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("arch", ["resnet20", "wrn_34_10", "mobilenet_v2", "efficientnet_b0", "sandwich", "linear"])
def test_any_network_gives_finite_numbers_and_arrays_that_need_no_pickle(name: str, arch: str) -> None:
    made = {"sandwich": Sandwich, "linear": OnlyLinear}
    network = made[arch]() if arch in made else network_of(arch, 0.1 if arch == "wrn_34_10" else 0.25)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    result = run(name, network, count=6, change=white)
    assert all(metric.startswith(f"{name}/") and np.isfinite(value) for metric, value in result.scalars.items())
    assert all(
        array.dtype.kind in "fU" and np.isfinite(array).all()
        for array in result.arrays.values()
        if array.dtype.kind == "f"
    )
    if arch not in made:
        assert result.scalars and result.arrays
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_layers_are_found_in_the_order_in_which_they_run() -> None:
    network = Sandwich().eval()
    probe = images_of(1).float() / 255.0
    assert [name for name, *_ in running_convolutions(network, probe)] == ["a", "b"]
    assert [size for *_, size in running_convolutions(network, probe)] == [SIZE**2, SIZE**2]
    assert [name for name, _ in stage_convolutions(network, probe)] == ["a", "b"]
    assert stage_convolutions(OnlyLinear(), probe) == []


def test_stages_of_residual_networks_are_their_layer_groups() -> None:
    probe = images_of(1).float() / 255.0
    for arch in ("resnet20", "wrn_34_10"):
        names = [name for name, _ in stage_convolutions(network_of(arch, 0.1).eval(), probe)]
        assert names == ["conv1", "groups.0.0.conv1", "groups.1.0.conv1", "groups.2.0.conv1"]


def test_a_compiled_network_is_looked_into() -> None:
    network = network_of()
    wrapped = torch.compile(network, backend="eager")
    assert run("first_kernels", wrapped).scalars == run("first_kernels", network).scalars


# -- kernels ---------------------------------------------------------------------------------------------------------


def test_what_is_shown_is_what_the_layer_uses_not_its_latent_weights() -> None:
    network = network_of(bits=2, fat=True)
    found = first_quantized(network, images_of(1).float() / 255.0)
    assert found is not None and found[0] == "groups.0.0.conv1"
    layer = found[1]
    used: list[Tensor] = []
    original = layer._conv_forward
    layer._conv_forward = lambda x, weight, bias: (used.append(weight), original(x, weight, bias))[1]  # type: ignore
    network.eval()(images_of(1).float() / 255.0)
    shown = run("quantized_kernels", network).arrays["kernels"]
    assert np.array_equal(shown, used[0].detach().numpy())
    assert len(np.unique(shown)) <= 4
    assert not np.allclose(shown, layer.weight.detach().numpy())
    spectra = run("kernel_spectra", network).arrays["group1"]
    assert np.allclose(spectra, np.abs(np.fft.fft(shown.reshape(len(shown), -1))), atol=1e-4)


def test_the_same_layer_is_shown_at_every_bit_width() -> None:
    shown = {bits: run("quantized_kernels", network_of(bits=bits)) for bits in (32, 4, 2)}
    assert {str(result.arrays["layer"]) for result in shown.values()} == {"groups.0.0.conv1"}
    levels = {bits: len(np.unique(result.arrays["kernels"])) for bits, result in shown.items()}
    assert levels[2] <= 3 < levels[4] <= 15 < levels[32]
    plain = dict(network_of().named_modules())["groups.0.0.conv1"]
    assert np.array_equal(shown[32].arrays["kernels"], plain.weight.detach().numpy())


@pytest.mark.parametrize("change", [{"fat": True}, {"standardize_only": True}, {"bits": 4, "weights": "max_abs"}])
def test_every_transform_of_the_weights_shows(change: dict[str, object]) -> None:
    plain = run("quantized_kernels", network_of()).arrays["kernels"]
    assert not np.array_equal(plain, run("quantized_kernels", network_of(**change)).arrays["kernels"])


def test_the_first_convolution_is_shown_for_figure_3_and_the_numbers_are_of_it() -> None:
    network = network_of(width=1.0)
    with torch.no_grad():
        network.conv1.weight.copy_(torch.ones(16, 3, 3, 3) * torch.linspace(-1, 1, 16)[:, None, None, None])
    result = run("first_kernels", network)
    assert result.arrays["kernels"].shape == (16, 3, 3, 3)
    assert result.scalars["first_kernels/smoothness"] == pytest.approx(1.0)
    assert result.scalars["first_kernels/channel_similarity"] == pytest.approx(1.0)
    with torch.no_grad():
        network.conv1.weight.copy_(network.conv1.weight * torch.tensor([1.0, -1.0, 1.0])[:, None, None])
    # Two of the three pairs of channels are opposite now.
    assert run("first_kernels", network).scalars["first_kernels/channel_similarity"] == pytest.approx(-1 / 3)


def test_high_frequencies_of_each_group_and_their_mean() -> None:
    network = network_of()
    with torch.no_grad():
        network.conv1.weight.fill_(1.0)
    scalars = run("kernel_spectra", network).scalars
    shares = [scalars[f"kernel_spectra/high_frequency_share_group{group}"] for group in range(4)]
    assert shares[0] == pytest.approx(0.0, abs=1e-9)
    assert scalars["kernel_spectra/smoothness_group0"] == pytest.approx(1.0)
    assert scalars["kernel_spectra/high_frequency_share"] == pytest.approx(np.mean(shares))
    weight = network.groups[1][0].conv1.weight
    assert scalars["kernel_spectra/smoothness_group2"] == pytest.approx(float(kernel_smoothness(weight)))


def test_arrays_of_wide_layers_are_cut_but_not_their_numbers() -> None:
    network = nn.Sequential(nn.Conv2d(3, 100, 3), nn.Conv2d(100, 100, 3), nn.Flatten(), nn.Linear(100 * 12 * 12, 4))
    result = run("quantized_kernels", network, count=4)
    assert result.arrays["kernels"].shape == (64, 64, 3, 3)
    assert result.scalars["quantized_kernels/smoothness"] == pytest.approx(float(kernel_smoothness(network[1].weight)))


def test_effective_weight_is_detached_and_in_single_precision() -> None:
    layer = nn.Conv2d(3, 4, 3).to(torch.bfloat16)
    weight = effective_weight(layer)
    assert weight.dtype == torch.float32 and not weight.requires_grad


# -- examples --------------------------------------------------------------------------------------------------------


def test_the_share_of_white_noise_is_a_quarter_and_its_profile_flat() -> None:
    result = run("spectrum", nn.Identity(), count=300, change=white)
    assert result.scalars["spectrum/central_energy_share"] == pytest.approx(0.25, abs=0.01)
    assert result.arrays["profile"][1:] == pytest.approx(np.ones(len(result.arrays["profile"]) - 1), abs=0.1)
    for name in ("clean", "adversarial", "difference"):
        assert result.arrays[name].shape == (SIZE, SIZE)
        assert result.arrays[name].min() == 0.0 and result.arrays[name].max() == 1.0


def test_the_share_of_a_smooth_perturbation_is_one() -> None:
    wave = 0.03 * torch.cos(2 * torch.pi * torch.arange(SIZE) / SIZE)
    result = run("spectrum", nn.Identity(), change=lambda x: x + wave)
    assert result.scalars["spectrum/central_energy_share"] == pytest.approx(1.0, abs=1e-5)


def test_cka_of_every_layer_with_itself_is_one_and_of_unlike_layers_less() -> None:
    result = run("cka", network_of(), count=32, change=white)
    matrix = result.arrays["matrix"]
    assert np.diagonal(matrix) == pytest.approx(np.ones(len(matrix)), abs=1e-5)
    assert matrix == pytest.approx(matrix.T, abs=1e-6)
    third = len(matrix) // 3
    assert result.scalars["cka/shallow_deep"] == pytest.approx(matrix[:third, -third:].mean(), abs=1e-6)
    assert (result.arrays["layers"][0], result.arrays["layers"][-1]) == ("conv1", "linear")


def test_cka_is_of_the_adversarial_examples() -> None:
    network = network_of()
    assert run("cka", network, count=16).scalars != run("cka", network, count=16, change=white).scalars


def test_one_minibatch_is_the_unbiased_full_estimate() -> None:
    network = Sandwich().eval()
    result = run("cka", network, count=24)
    first: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda *args: first.append(args[2])) for layer in (network.a, network.out)]
    network(images_of(24).float() / 255.0)
    for hook in hooks:
        hook.remove()
    assert result.arrays["matrix"][0, -1] == pytest.approx(float(linear_cka(*first, unbiased=True)), abs=1e-4)
    assert list(result.arrays["layers"]) == ["a", "b", "b#2", "out"]


@pytest.mark.parametrize("name", ["spectrum", "cka"])
def test_no_more_images_are_attacked_than_said_and_in_equal_minibatches(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "ANALYSED_IMAGES", 20)
    monkeypatch.setattr(examples, "CKA_BATCH", 8)
    seen: list[int] = []
    context = context_of(Sandwich(), count=50)

    def adversarial(places: Tensor) -> Tensor:
        seen.extend(places.tolist())
        assert len(places) <= context.batch_size
        return context.adversarial(places)

    get_analysis(name)(dataclasses.replace(context, adversarial=adversarial))
    assert seen == list(range(20 if name == "spectrum" else 16))


def test_memory_of_cka_does_not_grow_with_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "CKA_BATCH", 4)
    shapes: set[tuple[int, ...]] = set()
    original = examples.MinibatchCKA.update

    def update(self: object, first: list[Tensor], **more: object) -> None:
        shapes.update(tuple(gram.shape) for gram in first)
        original(self, first, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(examples.MinibatchCKA, "update", update)
    run("cka", Sandwich(), count=32)
    assert shapes == {(4, 4)}


def test_fewer_images_than_the_estimate_needs_give_nothing() -> None:
    assert run("cka", Sandwich(), count=3) == AnalysisResult()


def test_batches_of_the_attack_change_nothing() -> None:
    network = network_of()
    for name in ("spectrum", "cka"):
        one, other = run(name, network, count=12, batch_size=3), run(name, network, count=12, batch_size=50)
        assert one.scalars == pytest.approx(other.scalars, abs=1e-6)
