"""Weights that were trained elsewhere: read, understood, or refused with the layer that does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablate.core.errors import DataError, SpecError
from ablate.learning import pretrained_weights
from ablate.learning.models import build_network
from ablate.spaces.specs import ModelSpec
from tests.support.field_networks import ResNet18, WideResNet

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
ARCHS = ("resnet18", "preact_resnet18", "wrn_28_10")


def theirs(arch: str, classes: int = 5) -> nn.Module:
    """A plain network, with averages of its own."""
    torch.manual_seed(0)
    if arch == "wrn_28_10":
        network: nn.Module = WideResNet(classes, depth=16, first=2, widen=1)
    else:
        network = ResNet18(classes, pre=arch == "preact_resnet18", thin=16)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
    return network.eval()


def ours(arch: str, **more: Any) -> ModelSpec:
    small = {"depth": 16, "width": 0.1} if arch == "wrn_28_10" else {"width": 1 / 16}
    return ModelSpec.model_validate({"arch": arch, **small, **more})


def loaded(spec: ModelSpec, classes: int = 5) -> nn.Module:
    network = build_network(spec, classes, 16, 0)
    network.load_state_dict(pretrained_weights.load(spec, classes, 16))
    return network.eval()


@pytest.mark.parametrize("arch", ARCHS)
def test_a_network_says_what_a_plain_one_says_with_the_same_weights(arch: str, tmp_path: Path) -> None:
    plain = theirs(arch)
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    network = loaded(ours(arch, weights=str(tmp_path / "plain.pt")))
    images = IMAGES.double().requires_grad_()
    told, expected = network.double()(images), plain.double()(images)
    torch.testing.assert_close(told, expected, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(logits.square().sum(), images)[0] for logits in (told, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def wrapped(weights: dict[str, Tensor], how: str) -> Any:
    if how == "DataParallel":
        return {f"module.{name}": tensor for name, tensor in weights.items()}
    if how == "normalizing class":
        statistics = {"module.mu": torch.zeros(1, 3, 1, 1), "module.sigma": torch.ones(3)}
        return {**statistics, **{f"module.model.{name}": tensor for name, tensor in weights.items()}}
    if how == "Sequential":
        return {"0.mean": torch.zeros(3), "0.std": torch.ones(3), **{f"1.{n}": t for n, t in weights.items()}}
    if how == "compiled":
        return {f"_orig_mod.{name}": tensor for name, tensor in weights.items()}
    if how == "with an optimizer":
        return {"epoch": 199, "optimizer": {"lr": 0.1}, "state_dict": weights}
    if how == "no counters":
        return {name: tensor for name, tensor in weights.items() if "num_batches_tracked" not in name}
    if how == "half":
        return {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    return weights


@pytest.mark.parametrize(
    "how", ["DataParallel", "normalizing class", "Sequential", "compiled", "with an optimizer", "no counters", "half"]
)
def test_whatever_wraps_them_is_understood(how: str, tmp_path: Path) -> None:
    plain = theirs("preact_resnet18")
    torch.save(wrapped(plain.state_dict(), how), tmp_path / "plain.pt")
    told = loaded(ours("preact_resnet18", weights=str(tmp_path / "plain.pt")))(IMAGES)
    tolerance = 0.05 if how == "half" else 1e-5
    torch.testing.assert_close(told, plain(IMAGES), rtol=tolerance, atol=tolerance)


def test_the_digest_is_of_the_content_whatever_the_file(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    weights = theirs("resnet18").state_dict()
    torch.save(weights, tmp_path / "a.pt")
    torch.save(wrapped(weights, "DataParallel"), tmp_path / "b.tar")
    safetensors.save_file(weights, tmp_path / "c.safetensors")
    (tmp_path / "d.bin").write_bytes((tmp_path / "c.safetensors").read_bytes())

    def digest(name: str) -> str:
        return pretrained_weights.describe(ours("resnet18", weights=str(tmp_path / name)), 5, 16)

    assert len({digest(name) for name in ("a.pt", "b.tar", "c.safetensors", "d.bin")}) == 1
    before = digest("a.pt")
    weights["linear.bias"][0] += 1
    torch.save(weights, tmp_path / "a.pt")
    assert digest("a.pt") != before


@pytest.mark.parametrize(
    ("spec", "classes", "words"),
    [
        (
            ours("preact_resnet18"),
            5,
            ["preact_resnet18", "groups.1.0.bn1.weight of 4", "one of 8, called layer2.0.bn1.weight"],
        ),
        (ours("resnet18"), 7, ["linear.weight of 7x32", "got one of 5x32"]),
        (ours("resnet18", width=1 / 8), 5, ["conv1.weight of 8x3x3x3", "got one of 4x3x3x3"]),
        (ours("resnet18", depth=10), 5, ["a layer that it has not: layer1.1.conv1.weight"]),
        (ours("resnet18", depth=26), 5, ["groups.0.2.conv1.weight of 4x4x3x3", "no such layer"]),
        (ours("resnet18", quantization={"bits": 4}), 5, ["activation1.scale of one number", "no such layer"]),
        (ModelSpec(), 5, ["resnet20", "conv1.weight of 16x3x3x3"]),
    ],
    ids=["other network", "other classes", "other width", "less deep", "deeper", "quantized", "another family"],
)
def test_weights_of_another_network_are_refused_with_the_first_layer_that_differs(
    spec: ModelSpec, classes: int, words: list[str], tmp_path: Path
) -> None:
    torch.save(theirs("resnet18").state_dict(), tmp_path / "w.pt")
    with pytest.raises(SpecError, match=r"model\.weights: .*w\.pt: expected the weights of") as raised:
        pretrained_weights.describe(spec.model_copy(update={"weights": str(tmp_path / "w.pt")}), classes, 16)
    assert all(word in str(raised.value) for word in words), str(raised.value)


class Harmful:
    def __reduce__(self) -> Any:
        return (print, ("run",))


@pytest.mark.parametrize(
    "content", [{"state_dict": Harmful()}, b"no file of weights", b"", {"epoch": 3}, [1, 2]], ids=lambda c: str(type(c))
)
def test_a_file_that_holds_no_tensors_or_code_is_refused(content: Any, tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(DataError, match=r"model\.weights: expected .*w\.pt"):
        pretrained_weights.read(path)
    assert "run" not in capfd.readouterr().out


def test_a_file_that_is_not_there_or_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model\.weights: expected a file, got .*none\.pt"):
        pretrained_weights.describe(ours("resnet18", weights=str(tmp_path / "none.pt")), 5, 16)
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"a": torch.ones(1000)}, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:2000])
    with pytest.raises(DataError, match="expected a whole safetensors file"):
        pretrained_weights.read(tmp_path / "w.safetensors")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    weights = theirs("resnet18").state_dict()
    weights["layer2.0.conv1.weight"][0] = torch.nan
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(SpecError, match=r"finite weights, got nan or infinity in layer2\.0\.conv1\.weight"):
        pretrained_weights.load(ours("resnet18", weights=str(tmp_path / "w.pt")), 5, 16)


MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def test_an_input_mean_and_deviation_are_part_of_the_network(tmp_path: Path) -> None:
    plain = theirs("preact_resnet18")
    torch.save(plain.state_dict(), tmp_path / "w.pt")
    spec = ours("preact_resnet18", weights=str(tmp_path / "w.pt"), input_mean=MEAN, input_std=STD)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    torch.testing.assert_close(loaded(spec)(IMAGES), plain((IMAGES - mean) / std), rtol=1e-4, atol=1e-4)


def test_a_file_that_tells_its_mean_wants_the_setting(tmp_path: Path) -> None:
    weights = {f"model.{name}": tensor for name, tensor in theirs("resnet18").state_dict().items()}
    torch.save({"mean": torch.tensor(MEAN), "std": torch.tensor(STD), **weights}, tmp_path / "w.pt")
    with pytest.raises(SpecError, match=r"expected model\.input_mean: \[0\.4914, 0\.4822, 0\.4465\], as mean .*none"):
        pretrained_weights.load(ours("resnet18", weights=str(tmp_path / "w.pt")), 5, 16)
    spec = ours("resnet18", weights=str(tmp_path / "w.pt"), input_mean=MEAN, input_std=STD)
    assert pretrained_weights.load(spec, 5, 16)
    wrong = spec.model_copy(update={"input_std": (1.0, 1.0, 1.0)})
    with pytest.raises(SpecError, match=r"expected model\.input_std: \[0\.2471"):
        pretrained_weights.load(wrong, 5, 16)


def test_a_network_of_ablate_that_normalizes_is_read_again(tmp_path: Path) -> None:
    spec = ModelSpec(depth=8, input_mean=MEAN, input_std=STD)
    network = build_network(spec, 10, 16, 3).eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    spec = spec.model_copy(update={"weights": str(tmp_path / "w.pt")})
    assert torch.equal(loaded(spec, 10)(IMAGES), network(IMAGES))
