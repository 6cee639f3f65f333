"""Attacks that search by a cheaper network than the one that judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ablate.attacks import (
    APGD,
    BIM,
    PGD,
    TPGD,
    Attack,
    CarliniWagner,
    CleanLogits,
    Ensemble,
    Natural,
    Square,
    evaluate,
    evaluate_ensemble,
)
from ablate.core.filters import Filter
from ablate.execution import worker
from ablate.learning import data
from ablate.learning.models import build_network
from ablate.learning.models.folding import FoldedNetwork, InParts, as_measured, as_searched
from ablate.spaces.specs import DataSpec, ModelSpec
from ablate.storage.storage import Storage
from tests.support.tasks import planned, task

EPS_255 = 20.0
ATTACKS = (
    BIM(eps_255=EPS_255, steps=3),
    PGD(eps_255=EPS_255, steps=3),
    TPGD(eps_255=EPS_255, steps=3),
    APGD(eps_255=EPS_255, steps=4),
    Square(eps_255=EPS_255, queries=30),
    CarliniWagner(steps=4),
)
LOW = Filter("lowpass", 6)


class Wrong(nn.Module):
    """Never right: it takes every image for the class after the one that the network takes it for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).roll(1, dims=1)


class Unasked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("asked")


@pytest.fixture
def some(make_network, make_batch) -> tuple[nn.Module, Tensor, Tensor]:
    network = make_network(torch.float32)
    batch = make_batch(network, count=40, dtype=torch.float32)
    with torch.no_grad():
        return network, batch.images, network(batch.images).argmax(1)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_search_that_deceives_itself_costs_no_attack_its_strength(some: Any, attack: Attack, adaptive: bool) -> None:
    network, images, labels = some
    how = {"seed": 0, "batch_size": 40, "filters": [None, LOW], "adaptive": adaptive}
    alone = evaluate(network, attack, images, labels, **how)
    found = evaluate(network, attack, images, labels, search=Wrong(network), **how)
    # What fooled the search alone was attacked anew by asking the judge; what fooled the judge as well stays fooled.
    assert not any((found[seen] & ~alone[seen]).any() for seen in ((None, LOW) if adaptive else (None,)))
    assert alone[None].any() and not alone[None].all()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_a_search_by_the_judge_itself_changes_nothing(some: Any, attack: Attack) -> None:
    network, images, labels = some
    how = {"seed": 0, "batch_size": 40}
    alone = evaluate(network, attack, images, labels, **how)[None]
    assert torch.equal(evaluate(network, attack, images, labels, search=network, **how)[None], alone)
    made_of = Ensemble(name="worst", eps_255=EPS_255, parts=(Natural(), ATTACKS[0], ATTACKS[4]))
    together = evaluate_ensemble(network, made_of, images, labels, **how)[None]
    searched = evaluate_ensemble(network, made_of, images, labels, search=network, **how)[None]
    assert torch.equal(together.broken_by, searched.broken_by) and together.attacked == searched.attacked


class Unsteady(nn.Module):
    """Takes images for wrong by a hair and, asked again, for right: as kernels for other numbers of images would."""

    def __init__(self, network: nn.Module, labels: Tensor) -> None:
        super().__init__()
        self.network, self.labels, self.calls = network, labels, 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x).clone()
        self.calls += 1
        own = self.labels[: len(x), None]
        others = logits.scatter(1, own, -torch.inf).amax(1, keepdim=True)
        hair = 1e-3 if self.calls == 1 else -1e-3
        return logits.scatter(1, own, others - hair)


@pytest.mark.parametrize("attack", [APGD(eps_255=EPS_255, steps=4), Square(eps_255=EPS_255, queries=30)])
def test_what_a_search_stopped_at_by_a_hair_is_attacked_again_though_it_is_right_when_asked_again(
    some: Any, attack: Attack
) -> None:
    network, images, labels = some
    images, labels = images[:32], labels[:32]
    how = {"seed": 0, "batch_size": 32}
    alone = evaluate(network, attack, images, labels, **how)[None]
    found = evaluate(network, attack, images, labels, search=Unsteady(network, labels), **how)[None]
    assert not (found & ~alone).any() and not alone.all()


def test_the_judge_says_who_is_fooled_and_a_search_is_asked_only_by_what_asks_a_network(some: Any) -> None:
    network, images, labels = some
    how = {"seed": 0, "batch_size": 40}
    right = evaluate(network, Natural(), images, labels, search=Unasked(), **how)[None]
    assert right.all()
    with pytest.raises(AssertionError, match="asked"):
        evaluate(network, ATTACKS[0], images, labels, search=Unasked(), **how)
    with pytest.raises(AssertionError, match="asked"):
        parts = (Natural(), ATTACKS[0])
        whole = Ensemble(name="worst", eps_255=EPS_255, parts=parts)
        evaluate_ensemble(network, whole, images, labels, search=Unasked(), **how)


def resnet(seed: int = 0) -> nn.Module:
    network = build_network(ModelSpec.model_validate({"width": 0.5}), 10, 16, seed)
    network.train()(torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    return network.eval()


def test_what_searches_in_bfloat16_says_nearly_the_same_with_logits_of_more_than_8_bits() -> None:
    network, images = resnet(), torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    assert as_searched(network, 16, "float32") is None
    search = as_searched(network, 16, "bfloat16")
    assert search is not None
    with torch.no_grad():
        exact, found = as_measured(network, 16)(images), search(images)
        assert torch.equal(as_measured(network, 16)(images), exact)  # the judge is as it was
    assert found.dtype == torch.float32 and not torch.equal(found, exact)
    assert (found - exact).abs().max() < 0.05 * exact.abs().max()
    assert (found != found.bfloat16().float()).double().mean() > 0.8


def test_networks_that_cannot_be_folded_are_searched_too() -> None:
    network = build_network(ModelSpec.model_validate({"width": 0.5, "quantization": {"bits": 4}}), 10, 16, 0).eval()
    search = as_searched(network, 16, "bfloat16")
    assert search is not None
    assert not any(isinstance(module, FoldedNetwork) for module in search.modules())
    assert any(isinstance(module, InParts) for module in search.modules())
    images = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        exact, found = network(images), search(images)
        assert torch.equal(network(images), exact)  # its own layers are as they were
    assert found.dtype == torch.float32
    assert (found != found.bfloat16().float()).double().mean() > 0.8  # here, too


def test_layers_that_are_asked_for_their_weights_alone_are_searched_too() -> None:
    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.last = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            rows = x.mean(1)
            return self.last(self.attention(rows, rows, rows, need_weights=False)[0].mean(1))

    search, images = as_searched(Attentive().eval(), 8, "bfloat16"), torch.rand(4, 3, 8, 8)
    assert search is not None and search(images.requires_grad_()).dtype == torch.float32


def test_bim_in_bfloat16_is_torchattacks_bim_of_a_network_in_bfloat16() -> None:
    torchattacks = pytest.importorskip("torchattacks")
    network, images = resnet(), torch.rand(30, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = network(images).argmax(1)
    search = as_searched(network, 16, "bfloat16")
    assert search is not None
    made = BIM(eps_255=8.0, step_255=2.0, steps=5).perturb(search, images, labels, index=torch.arange(30), seed=0)
    theirs = torchattacks.BIM(search.eval(), eps=8 / 255, alpha=2 / 255, steps=5)(images, labels)
    torch.testing.assert_close(made, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [7, 20, 50])
def test_how_many_are_attacked_at_once_does_not_matter(size: int) -> None:
    network, images = resnet(), torch.rand(50, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        labels = network(images).argmax(1)
    asked, search = as_measured(network, 16), as_searched(network, 16, "bfloat16")
    how: dict[str, Any] = {"seed": 0, "search": search}
    attack = PGD(eps_255=8.0, step_255=2.0, steps=5)
    whole = evaluate(asked, attack, images, labels, batch_size=50, clean=CleanLogits(asked, images, 50), **how)[None]
    parts = evaluate(asked, attack, images, labels, batch_size=size, **how)[None]
    assert torch.equal(whole, parts) and whole.any() and not whole.all()


def test_the_setting_changes_what_searches_the_key_and_the_record(tmp_path: Path, monkeypatch: Any) -> None:
    digits = data.load(DataSpec(name="digits", image_size=8), Path())
    storage = Storage(str(tmp_path / "storage"))
    original, searched = worker.evaluate, list[tuple[str, bool]]()

    def noting(network: Any, attack: Attack, *rest: Any, search: Any = None, **named: Any) -> Any:
        searched.append((attack.name, search is not None))
        return original(network, attack, *rest, search=search, **named)

    monkeypatch.setattr(worker, "evaluate", noting)
    records = {}
    for precision in ("float32", "bfloat16"):
        plan = planned(tmp_path, "measurement.attacks=[natural, fgsm]", f"measurement.precision={precision}")
        doing = task(plan, storage)
        assert worker.run(doing, digits, lambda event: None).state == "finished"
        view = storage.view(doing.key)
        records[precision] = {
            (each.name, each.filter, each.adaptive): storage.record(view, each.key) for each in doing.measurements
        }
    assert searched.count(("fgsm", True)) == searched.count(("fgsm", False)) > 0
    assert ("natural", True) not in searched  # it asks for nothing that a precision changes: found in storage
    assert records["float32"].keys() == records["bfloat16"].keys()
    for what, record in records["bfloat16"].items():
        before = records["float32"][what]
        assert record is not None and before is not None
        assert (record.key == before.key) == (what[0] == "natural")
        assert record.meta.get("precision") == (None if what[0] == "natural" else "bfloat16")
        assert "precision" not in before.meta
        assert np.mean(record.correct == before.correct) > 0.9
