"""Every column against torchattacks, on the same network, images and noise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ablate.attacks import (
    BIM,
    FGSM,
    PGD,
    TPGD,
    Attack,
    CarliniWagner,
    GaussianNoise,
    build_attack,
)
from ablate.core.randomness import normal, stream, uniform
from ablate.spaces.specs import MeasurementSpec

torchattacks = pytest.importorskip("torchattacks")

SEED = 3
EPS, ALPHA = 8 / 255, 2 / 255
BY_NAME = {
    "gn": lambda network: torchattacks.GN(network, std=0.1),
    "fgsm": lambda network: torchattacks.FGSM(network, eps=EPS),
    "pgd20": lambda network: torchattacks.PGD(network, eps=EPS, alpha=ALPHA, steps=20, random_start=True),
    "bim20": lambda network: torchattacks.BIM(network, eps=EPS, alpha=ALPHA, steps=20),
    "tpgd20": lambda network: torchattacks.TPGD(network, eps=EPS, alpha=ALPHA, steps=20),
    "cw20": lambda network: torchattacks.CW(network, c=1, kappa=0, steps=20, lr=0.01),
}
OTHER_SETTINGS = {
    "gn": (GaussianNoise(std=0.3), lambda network: torchattacks.GN(network, std=0.3)),
    "fgsm": (FGSM(eps_255=20.0), lambda network: torchattacks.FGSM(network, eps=20 / 255)),
    "pgd": (
        PGD(eps_255=5.0, step_255=3.0, steps=7, random_start=False),
        lambda network: torchattacks.PGD(network, eps=5 / 255, alpha=3 / 255, steps=7, random_start=False),
    ),
    "bim": (
        BIM(eps_255=5.0, step_255=3.0, steps=7),
        lambda network: torchattacks.BIM(network, eps=5 / 255, alpha=3 / 255, steps=7),
    ),
    "tpgd": (
        TPGD(eps_255=5.0, step_255=3.0, steps=7),
        lambda network: torchattacks.TPGD(network, eps=5 / 255, alpha=3 / 255, steps=7),
    ),
    "cw": (
        CarliniWagner(c=3.0, kappa=2.0, steps=12, learning_rate=0.03),
        lambda network: torchattacks.CW(network, c=3, kappa=2, steps=12, lr=0.03),
    ),
    "cw that stops early": (
        CarliniWagner(c=0.1, steps=30, learning_rate=0.5),
        lambda network: torchattacks.CW(network, c=0.1, kappa=0, steps=30, lr=0.5),
    ),
    "cw of one step": (
        CarliniWagner(steps=1),
        lambda network: torchattacks.CW(network, c=1, kappa=0, steps=1, lr=0.01),
    ),
}


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch):
    """Makes torch's generators, which torchattacks draws from, give what ours give."""

    def patch(attack: Attack, index: torch.Tensor) -> None:
        key = stream(SEED, f"attack:{attack.name}")

        def uniform_(tensor: torch.Tensor, low: float, high: float) -> torch.Tensor:
            assert low == -high
            return tensor.copy_(high * (2 * uniform(key, index, tuple(tensor.shape[1:])).to(tensor.dtype) - 1))

        monkeypatch.setattr(torch.Tensor, "uniform_", uniform_)
        monkeypatch.setattr(torch, "randn_like", lambda x: normal(key, index, tuple(x.shape[1:])).to(x.dtype))

    return patch


def perturb_both(attack, make_theirs, network, batch, same_noise):
    ours = attack.perturb(network, batch.images, batch.labels, index=batch.index, seed=SEED)
    same_noise(attack, batch.index)
    theirs = make_theirs(network)(batch.images, batch.labels)
    assert not torch.equal(theirs, batch.images)
    return ours, theirs


def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return (network(images).argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("shift", [0.0, -30.0], ids=["any logits", "all logits negative"])
@pytest.mark.parametrize("name", BY_NAME)
def test_columns_agree_in_float64(name, shift, make_network, make_batch, same_noise) -> None:
    network = make_network(torch.float64, shift=shift)
    batch = make_batch(network)
    attack = build_attack(name, MeasurementSpec())
    ours, theirs = perturb_both(attack, BY_NAME[name], network, batch, same_noise)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_other_settings_agree_in_float64(name, network, batch, same_noise) -> None:
    attack, make_theirs = OTHER_SETTINGS[name]
    ours, theirs = perturb_both(attack, make_theirs, network, batch, same_noise)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", BY_NAME)
def test_columns_agree_in_float32(name, make_network, make_batch, same_noise) -> None:
    network = make_network(torch.float32)
    batch = make_batch(network, count=50, dtype=torch.float32)
    attack = build_attack(name, MeasurementSpec())
    ours, theirs = perturb_both(attack, BY_NAME[name], network, batch, same_noise)
    # One flipped sign moves a pixel by 2 alpha; rounding moves it by about 1e-7.
    assert ((ours - theirs).abs() < 1e-5).double().mean() >= 0.999
    assert accuracy(network, ours, batch.labels) == accuracy(network, theirs, batch.labels)


def test_the_early_stop_that_agrees_is_one(network, batch) -> None:
    calls: list[int] = []
    network.register_forward_hook(lambda *_: calls.append(1))
    attack, make_theirs = OTHER_SETTINGS["cw that stops early"]
    make_theirs(network)(batch.images, batch.labels)
    assert len(calls) < attack.steps
