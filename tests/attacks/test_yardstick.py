"""AutoAttack's parts: their own properties, and agreement with independent implementations on a trained network."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ablate.attacks import (
    APGD,
    PGD,
    Attack,
    CleanLogits,
    Ensemble,
    Natural,
    Square,
    TargetedAPGD,
    TargetedFAB,
    build_attack,
    evaluate,
    evaluate_ensemble,
    register_attack,
)
from ablate.attacks.active_set import ROWS_AT_ONCE
from ablate.attacks.apgd import likeliest_others, windows
from ablate.attacks.fab import project_linf
from ablate.attacks.square import side_of
from ablate.core.errors import SpecError
from ablate.core.filters import Filter
from ablate.core.registry import temporary_registrations
from ablate.spaces.specs import MeasurementSpec

EPS_255 = 32.0
PARTS = [
    APGD(eps_255=EPS_255, steps=50),
    TargetedAPGD(eps_255=EPS_255, steps=15),
    TargetedFAB(eps_255=EPS_255, steps=15),
    Square(eps_255=EPS_255, queries=300),
]


@functools.cache
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network, adversarially trained for a second on 8x8 digits, and 297 images it has not seen."""
    digits = load_digits()
    images = (torch.from_numpy(digits.images).float() / 16).unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (parameter[0].numel() ** -0.5))
    optimizer = torch.optim.Adam(network.parameters(), 0.003)
    attack = PGD(eps_255=EPS_255, step_255=16.0, steps=3)
    for step in range(80):
        chosen = torch.randint(0, 1500, (64,), generator=generator)
        made = attack.perturb(network, images[chosen], labels[chosen], index=chosen, seed=step)
        optimizer.zero_grad()
        F.cross_entropy(network(made), labels[chosen]).backward()
        optimizer.step()
    return network.eval(), images[1500:], labels[1500:]


def some(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    network, images, labels = trained()
    return network, images[:count], labels[:count]


def withstands(attack: Attack, count: int = 297, **more: object) -> Tensor:
    network, images, labels = trained()
    asked = {"seed": 0, "batch_size": 297, **more}
    return evaluate(network, attack, images[:count], labels[:count], **asked)[None]


def right(images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return trained()[0](images).argmax(1) == labels


def brief(attack: Attack) -> Attack:
    few = {"steps": 6, "queries": 20, "targets": 1}
    return dataclasses.replace(attack, **{name: count for name, count in few.items() if hasattr(attack, name)})


@pytest.mark.parametrize("attack", PARTS, ids=lambda attack: attack.name)
@pytest.mark.slow
def test_it_is_as_strong_as_pyautoattacks(attack: Attack) -> None:
    pyautoattack = pytest.importorskip("pyautoattack")
    network, images, labels = trained()
    names = {"apgd_ce": "apgd-ce", "apgd_t": "apgd-t", "fab_t": "fab-t", "square": "square"}
    theirs = pyautoattack.AutoAttack(
        network, eps=EPS_255 / 255, seed=0, version="custom", attacks=[names[attack.name]], device="cpu"
    )
    theirs.fab.n_restarts, theirs.fab.n_iter = 1, 15
    theirs.square.n_queries = 300
    for name, steps in (("apgd", 50), ("apgd_targeted", 15)):
        given = getattr(theirs, name)
        more = {"n_iter": steps, "eps": EPS_255 / 255, "seed": 0, "device": "cpu", "logger": theirs.logger}
        setattr(theirs, name, type(given)(network, n_restarts=1, **more))
    made = theirs.run_standard_evaluation(images, labels, batch_size=297)[0]
    expected = right(made, labels)
    assert 0.05 < expected.double().mean() < 0.9
    slack = 0.03 if attack.name == "square" else 0.005  # 300 queries of a random search are luck
    assert withstands(attack).double().mean() <= expected.double().mean() + slack


@pytest.mark.parametrize("attack", PARTS, ids=lambda attack: attack.name)
@pytest.mark.slow
def test_it_is_as_strong_as_torchattacks(attack: Attack) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    network, images, labels = trained()
    eps = EPS_255 / 255
    theirs = {
        "apgd_ce": lambda: torchattacks.APGD(network, eps=eps, steps=50, seed=0),
        "apgd_t": lambda: torchattacks.APGDT(network, eps=eps, steps=15, seed=0),
        "fab_t": lambda: torchattacks.FAB(network, eps=eps, steps=15, seed=0, multi_targeted=True),
        "square": lambda: torchattacks.Square(network, eps=eps, n_queries=300, resc_schedule=False, seed=0),
    }[attack.name]()
    expected = right(theirs(images, labels), labels)
    slack = 0.03 if attack.name == "square" else 0.005
    assert withstands(attack).double().mean() <= expected.double().mean() + slack


@pytest.mark.parametrize("attack", PARTS, ids=lambda attack: attack.name)
def test_neither_the_batch_nor_the_order_changes_which_images_withstand(attack: Attack) -> None:
    network, images, labels = trained()
    attack = brief(attack)
    whole = withstands(attack, 60)
    order = torch.arange(59, -1, -1)
    turned = evaluate(network, attack, images[order], labels[order], seed=0, batch_size=17, index=order)[None]
    assert torch.equal(turned[order], whole) and 0 < int(whole.sum()) < 60


@pytest.mark.parametrize(
    "attack",
    [
        APGD(eps_255=EPS_255, steps=2),
        TargetedAPGD(eps_255=EPS_255, steps=2, targets=1),
        Square(eps_255=24.0, queries=3),
    ],
    ids=lambda attack: attack.name,
)
def test_restarts_break_more(attack: Attack) -> None:
    once, often = withstands(attack), withstands(dataclasses.replace(attack, restarts=6))
    assert often.sum() < once.sum() and not (often & ~once).any()


def test_fab_with_restarts_breaks_no_less() -> None:
    once = withstands(TargetedFAB(eps_255=EPS_255, steps=4, targets=2))
    assert not (withstands(TargetedFAB(eps_255=EPS_255, steps=4, targets=2, restarts=3)) & ~once).any()


@pytest.mark.parametrize("attack", PARTS, ids=lambda attack: attack.name)
def test_every_option_changes_the_examples(attack: Attack) -> None:
    network, images, labels = trained()
    changes = {"eps_255": 40.0, "steps": 0, "queries": 5}

    def made(attack: Attack) -> Tensor:
        return attack.perturb(network, images[:40], labels[:40], index=torch.arange(40), seed=0)

    attack = brief(attack)
    before = made(attack)
    for name in {field.name for field in dataclasses.fields(attack)} - {"name", "restarts", "targets"}:
        assert not torch.equal(made(dataclasses.replace(attack, **{name: changes[name]})), before), name


@pytest.mark.parametrize("attack", [TargetedAPGD(steps=3), TargetedFAB(steps=3)], ids=lambda attack: attack.name)
def test_each_target_class_is_asked_about_once_and_never_the_true_one(
    attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ROWS_AT_ONCE, True, 1)  # one target at a time
    network, images, labels = some(8)
    attack = dataclasses.replace(attack, eps_255=1e-3)  # nothing breaks
    asked: list[int] = []

    def counting(seen: Tensor) -> Tensor:
        asked.append(len(seen))
        return network(seen)

    counts = []
    for targets in (1, 2, 9, 30):
        asked.clear()
        changed = dataclasses.replace(attack, targets=targets)
        changed.perturb(counting, images, labels, index=torch.arange(8), seed=0, clean_logits=network(images).detach())
        counts.append(len(asked))
    assert counts == [counts[0], 2 * counts[0], 9 * counts[0], 9 * counts[0]]
    others = likeliest_others(network(images).detach(), labels, 9)
    assert not (others == labels[:, None]).any() and all(len(set(row)) == 9 for row in others.tolist())


@pytest.mark.parametrize(
    "attack",
    [
        TargetedAPGD(eps_255=EPS_255 / 2, steps=8, restarts=2),
        TargetedFAB(eps_255=EPS_255 / 2, steps=8, targets=5, restarts=2),
    ],
    ids=lambda attack: attack.name,
)
def test_several_targets_in_one_batch_are_the_same_bits_in_fewer_batches(
    attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images, labels = some(24)
    asked: list[int] = []

    def counting(seen: Tensor) -> Tensor:
        asked.append(len(seen))
        return network(seen)

    made, calls = [], []
    for rows in (1, 64, 400):
        monkeypatch.setitem(ROWS_AT_ONCE, True, rows)
        asked.clear()
        made.append(attack.perturb(counting, images, labels, index=torch.arange(24), seed=3))
        calls.append(len(asked))
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])
    assert calls[0] > calls[1] > calls[2]
    wrong = network(made[0]).argmax(1) != labels
    assert 2 < int(wrong.sum()) < 24  # some are broken by later targets, some by none


def test_broken_images_cost_nothing_any_more() -> None:
    network, images, labels = some(100)
    asked: list[int] = []

    def counting(seen: Tensor) -> Tensor:
        asked.append(len(seen))
        return network(seen)

    attack = APGD(eps_255=EPS_255, steps=20)
    attack.perturb(counting, images, labels, index=torch.arange(100), seed=0, clean_logits=network(images).detach())
    left = int(withstands(attack, 100).sum())
    assert asked[-1] <= left + 16 + left // 16 + 1 < 100


def test_the_step_size_is_looked_at_where_autoattack_looks() -> None:
    assert windows(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert windows(1) == [1] and windows(0) == []


def test_squares_shrink() -> None:
    sides = [side_of(query, 32, 32) for query in (0, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)]
    assert sides == [29, 20, 14, 10, 7, 5, 4, 3, 2, 1]
    assert side_of(0, 8, 4) == 4


def test_the_projection_is_the_nearest_point_of_the_plane_in_the_box() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(200, 12, generator=generator, dtype=torch.float64)
    normal = torch.randn(200, 12, generator=generator, dtype=torch.float64)
    normal[:, 3] = 0
    there = torch.rand(200, 12, generator=generator, dtype=torch.float64)
    offset = (normal * there).sum(1)
    change = project_linf(points, normal, offset)
    moved = points + change
    assert moved.min() >= 0 and moved.max() <= 1
    torch.testing.assert_close((normal * moved).sum(1), offset)
    # No shorter one: within a ball a hair smaller the plane is out of reach.
    radius = change.abs().amax(1, keepdim=True) - 1e-9
    ahead = torch.sign(normal * (offset - (normal * points).sum(1))[:, None])
    best = (points + ahead * radius).clamp(0, 1)
    lacking = (offset - (normal * points).sum(1)).abs()
    assert ((normal * (best - points)).sum(1).abs() < lacking).all()


def test_a_plane_out_of_reach_is_gone_towards_as_far_as_the_box_goes() -> None:
    points, normal = torch.full((1, 2), 0.25), torch.tensor([[1.0, -2.0]])
    assert project_linf(points, normal, torch.tensor([9.0])).tolist() == [[0.75, -0.25]]


# Columns made of others


def whole(*parts: Attack) -> Ensemble:
    return Ensemble(name="worst", eps_255=EPS_255, parts=parts)


BRIEF = (Natural(), APGD(eps_255=EPS_255, steps=5), Square(eps_255=EPS_255, queries=40))


def test_together_is_the_and_of_its_parts_and_what_is_broken_is_attacked_no_more() -> None:
    network, images, labels = some(100)
    apart = [withstands(part, 100) for part in BRIEF]
    found = evaluate_ensemble(network, whole(*BRIEF), images, labels, seed=0, batch_size=100)[None]
    assert torch.equal(found.correct, apart[0] & apart[1] & apart[2])
    assert found.attacked == (100, int(apart[0].sum()), int((apart[0] & apart[1]).sum()))
    assert [int((found.broken_by == number).sum()) for number in range(3)] == [
        100 - int(apart[0].sum()),
        int((apart[0] & ~apart[1]).sum()),
        int((apart[0] & apart[1] & ~apart[2]).sum()),
    ]
    made = whole(*BRIEF).perturb(network, images, labels, index=torch.arange(100), seed=0)
    assert torch.equal(right(made, labels), found.correct)


@pytest.mark.parametrize("known", [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_the_outcome_is_the_same_whatever_is_known_already(known: tuple[int, ...]) -> None:
    network, images, labels = some(100)
    stored = {(BRIEF[number].name, None): withstands(BRIEF[number], 100) for number in known}
    expected = evaluate_ensemble(network, whole(*BRIEF), images, labels, seed=0, batch_size=100)[None]
    found = evaluate_ensemble(network, whole(*BRIEF), images, labels, seed=0, batch_size=30, known=stored)[None]
    assert torch.equal(found.correct, expected.correct) and torch.equal(found.broken_by, expected.broken_by)
    assert [count is None for count in found.attacked] == [number in known for number in range(3)]


@pytest.mark.parametrize("adaptive", [False, True])
def test_behind_filters_it_is_the_and_behind_each(adaptive: bool) -> None:
    network, images, labels = trained()
    more = {"seed": 0, "batch_size": 100, "filters": [None, Filter("lowpass", 6)], "adaptive": adaptive}
    apart = [
        evaluate(network, part, images, labels, **{**more, "adaptive": adaptive and part.uses_network})
        for part in BRIEF
    ]
    clean = CleanLogits(network, images, 100)
    found = evaluate_ensemble(network, whole(*BRIEF), images, labels, clean=clean, **more)
    for seen in more["filters"]:
        assert torch.equal(found[seen].correct, apart[0][seen] & apart[1][seen] & apart[2][seen])


def test_aa_is_the_standard_version() -> None:
    attack = build_attack("aa", MeasurementSpec(eps_255=4.0, square_queries=70))
    assert isinstance(attack, Ensemble)
    assert [part.name for part in attack.parts] == ["natural", "apgd_ce", "apgd_t", "fab_t", "square"]
    assert [getattr(part, "steps", None) for part in attack.parts] == [None, 100, 100, 100, None]
    assert {getattr(part, "eps_255", 4.0) for part in attack.parts} == {4.0}
    assert attack.parts[-1].queries == 70 and "queries=70" in repr(attack)


def test_worst_is_what_stays_in_the_ball_of_all_that_is_declared() -> None:
    spec = MeasurementSpec(attacks=("worst", "natural", "gn", "pgd20", "cw20", "square"))
    attack = build_attack("worst", spec)
    assert isinstance(attack, Ensemble)
    assert [part.name for part in attack.parts] == ["natural", "pgd20", "square"]
    assert "pgd20" in repr(attack)


def test_what_declares_no_threat_or_another_one_is_refused() -> None:
    class Silent(Natural):
        threat = None

    with temporary_registrations():
        register_attack("silent")(lambda spec: Silent(name="silent"))
        with pytest.raises(SpecError, match=r"worst: expected every column beside it to declare its threat.*'silent'"):
            build_attack("worst", MeasurementSpec(attacks=("pgd20", "silent", "worst")))
    with pytest.raises(SpecError, match="expected attacks of l-infinity, 32/255, got l-infinity, 8/255 of 'pgd20'"):
        whole(PGD())
    with pytest.raises(SpecError, match="expected another column of l-infinity, 8/255 beside it, got none"):
        build_attack("worst", MeasurementSpec(attacks=("worst", "gn")))


def test_a_ratio_of_four_logits_needs_four_classes() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    images, labels = torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(SpecError, match="apgd_t: expected at least 4 classes, got 3"):
        TargetedAPGD().perturb(network, images, labels, index=torch.arange(2), seed=0)
