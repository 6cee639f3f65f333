"""AutoAttack's parts beside plain loops over one image, written from their papers: the same points, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ablate.attacks import Square, TargetedAPGD, TargetedFAB, evaluate, evaluate_ensemble, square
from ablate.attacks.active_set import ROWS_AT_ONCE, rows_to_fill
from ablate.attacks.apgd import ascend_adaptively, likeliest_others, targeted_dlr
from ablate.attacks.ensemble import Ensemble
from ablate.attacks.evaluation import CleanLogits
from ablate.attacks.linf import TPGD
from ablate.attacks.noise import Natural
from ablate.attacks.square import side_of
from ablate.core.filters import Filter
from ablate.core.randomness import bits, stream

SIZE = 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Rough(nn.Module):
    """Logits that go up and down within the ball, so that steps overshoot."""

    def __init__(self, classes: int, steepness: float, seed: int = 1) -> None:
        super().__init__()
        self.directions = random(classes, 12, 3 * SIZE * SIZE, seed=seed) - 0.5
        self.steepness = steepness

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.steepness * torch.einsum("nd,kcd->nkc", x.flatten(1), self.directions)).sum(2)


def apgd_by_hand(rough: Rough, image: Tensor, start: Tensor, eps: float, steps: int) -> Tensor:
    """Algorithm 1 of arXiv 2003.01690 for one image, that maximizes the first logit."""
    low, high = (image - eps).clamp(min=0), (image + eps).clamp(max=1)

    def value_and_gradient(x: Tensor) -> tuple[float, Tensor]:
        x = x.clone().requires_grad_()
        value = rough(x[None])[0, 0]
        return float(value), torch.autograd.grad(value, x)[0]

    def inside(x: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(x, high), low)

    window = max(int(0.22 * steps), 1)
    checks, at = [], 0
    while at + window <= steps:
        at += window
        checks.append(at)
        window = max(window - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    x = before = start
    value, gradient = value_and_gradient(x)
    best, best_value, best_gradient = x, value, gradient
    size, rises, checked_at, was_halved, checked_value = 2 * eps, 0, 0, True, value
    for step in range(1, steps + 1):
        ahead = inside(x + size * gradient.sign())
        if step > 1:
            ahead = inside(x + 0.75 * (ahead - x) + 0.25 * (x - before))
        before, x = x, ahead
        new, gradient = value_and_gradient(x)
        rises += new > value
        value = new
        if value > best_value:
            best, best_value, best_gradient = x, value, gradient
        if step in checks:
            halve = rises <= 0.75 * (step - checked_at) or (not was_halved and checked_value >= best_value)
            if halve:
                size, x, gradient = size / 2, best, best_gradient
            was_halved, checked_value, checked_at, rises = halve, best_value, step, 0
    return best


@pytest.mark.parametrize("steepness", [2.0, 9.0, 20.0])
def test_apgd_is_the_papers_algorithm_image_by_image(steepness: float) -> None:
    count, eps = 24, 0.4  # so wide that some steps lead away from the best point
    rough, images = Rough(1, steepness), random(count, 3, SIZE, SIZE, seed=2)
    start = (images + eps * (2 * random(count, 3, SIZE, SIZE, seed=3) - 1)).clamp(0, 1)

    def never_wrong(x: Tensor) -> Tensor:
        first = rough(x)
        return torch.cat([first + 1000, first - first], dim=1)

    labels = torch.zeros(count, dtype=torch.int64)
    found, broken = ascend_adaptively(
        never_wrong, images, labels, lambda logits, *_: logits[:, 0], start=start, eps=eps, steps=40
    )
    assert not broken.any()
    for image, first, made in zip(images, start, found, strict=True):
        wanted = apgd_by_hand(rough, image, first, eps, 40)
        torch.testing.assert_close(made, wanted, rtol=0, atol=1e-9)


def test_the_targeted_ratio_is_its_formula_and_targets_come_by_their_rank() -> None:
    logits, labels = 9 * random(30, 6), torch.arange(30) % 6
    for targets in likeliest_others(logits, labels, 5).T:
        found = targeted_dlr(logits, labels, targets)
        for row, y, t, value in zip(logits.tolist(), labels.tolist(), targets.tolist(), found.tolist(), strict=True):
            first, _, third, fourth, *_ = sorted(row, reverse=True)
            assert value == pytest.approx(-(row[y] - row[t]) / (first - (third + fourth) / 2))
    for row, y, others in zip(logits.tolist(), labels.tolist(), likeliest_others(logits, labels, 3), strict=True):
        assert others.tolist() == sorted(set(range(6)) - {y}, key=lambda k: -row[k])[:3]


def onto_plane(point: Tensor, normal: Tensor, offset: float) -> Tensor:
    """By bisection of the step along the normal's signs."""
    lacking = offset - float(normal @ point)
    towards, low, high = (normal * lacking).sign(), 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        reached = normal @ ((point + middle * towards).clamp(0, 1) - point)
        low, high = (middle, high) if abs(float(reached)) < abs(lacking) else (low, middle)
    return (point + high * towards).clamp(0, 1) - point


def fab_by_hand(network: nn.Module, image: Tensor, label: int, target: int, eps: float, steps: int) -> Tensor | None:
    """Targeted FAB of arXiv 1907.02044 for one image: what breaks it first, within the radius."""
    x, image = image.flatten().clone(), image.flatten()
    for _ in range(steps):
        asked = x.clone().requires_grad_()
        logits = network(asked.view(1, 3, SIZE, SIZE))[0]
        lead = logits[target] - logits[label]
        (normal,) = torch.autograd.grad(lead, asked)
        offset = float(normal @ x - lead.detach())
        from_here, from_image = onto_plane(x, normal, offset), onto_plane(image, normal, offset)
        here, there = float(from_here.abs().max()), float(from_image.abs().max())
        bias = min(here / (here + there), 0.1)
        x = ((x + 1.05 * from_here) * (1 - bias) + (image + 1.05 * from_image) * bias).clamp(0, 1)
        with torch.no_grad():
            wrong = int(network(x.view(1, 3, SIZE, SIZE)).argmax()) != label
        if wrong and float((x - image).abs().max()) <= eps:
            return x.view(3, SIZE, SIZE)
        if wrong:
            x = image + 0.9 * (x - image)
    return None


def test_fab_is_the_papers_algorithm_image_by_image() -> None:
    network, images, eps = Rough(3, 4.0, seed=4), random(24, 3, SIZE, SIZE, seed=5), 0.02
    labels = network(images).argmax(1)
    attack = TargetedFAB(eps_255=255 * eps, steps=8, targets=1)
    made = attack.perturb(network, images, labels, index=torch.arange(24), seed=0)
    targets = likeliest_others(network(images), labels, 1)[:, 0]
    ended = []
    for image, label, target, found in zip(images, labels.tolist(), targets.tolist(), made, strict=True):
        steps = next((n for n in range(1, 9) if fab_by_hand(network, image, label, target, eps, n) is not None), 0)
        wanted = fab_by_hand(network, image, label, target, eps, 8)
        torch.testing.assert_close(found, image if wanted is None else wanted, rtol=0, atol=1e-6)
        ended.append(steps)
    assert len(set(ended) - {0}) > 2  # some at once, some later


class Watched(nn.Module):
    """Keeps what it was asked about."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.asked = inner, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return self.inner(x)


def test_each_target_has_a_start_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS_AT_ONCE, True, 1)  # one attempt at a time
    images, rough = random(16, 3, SIZE, SIZE), Rough(6, 0.5)
    labels = rough(images).argmax(1)
    known = {"index": torch.arange(16), "seed": 0, "clean_logits": rough(images)}
    watched = Watched(rough)
    TargetedAPGD(eps_255=1e-6, steps=0, targets=3, restarts=2).perturb(watched, images, labels, **known)
    assert len(watched.asked) == 6
    assert all(not torch.equal(one, other) for n, one in enumerate(watched.asked) for other in watched.asked[:n])
    watched.asked.clear()
    TargetedFAB(eps_255=1e-3, steps=1, targets=1, restarts=2).perturb(watched, images, labels, **known)
    first, _, again, _ = watched.asked
    assert torch.equal(first, images)
    furthest = (again - images).abs().amax(dim=(1, 2, 3))
    torch.testing.assert_close(furthest, torch.full_like(furthest, 0.5e-3 / 255), rtol=1e-6, atol=0)  # half the radius


def test_squares_reach_every_edge_and_only_what_helps_is_kept() -> None:
    size = 8
    images, weights = 0.3 + 0.4 * random(64, 3, size, size), random(2, 3 * size * size, seed=7) - 0.5
    linear = nn.Linear(3 * size * size, 2).double()
    with torch.no_grad():
        linear.weight.copy_(weights)
        linear.bias.copy_(torch.tensor([1000.0, 0.0]))  # never wrong
    network, labels = Watched(nn.Sequential(nn.Flatten(), linear)), torch.zeros(64, dtype=torch.int64)
    made = Square(eps_255=25.5, queries=60).perturb(
        network, images, labels, index=torch.arange(64), seed=0, clean_logits=network.inner(images)
    )
    start, *queries = network.asked
    assert len(queries) == 60 and torch.equal((start - images).sign().amax(2), (start - images).sign().amin(2))
    changed = (queries[0] != start).any(dim=1).any(dim=0)
    assert changed[0].any() and changed[-1].any() and changed[:, 0].any() and changed[:, -1].any()

    def margin(x: Tensor) -> Tensor:
        logits = network.inner(x)
        return logits[:, 0] - logits[:, 1]

    least = torch.stack([margin(asked) for asked in network.asked]).amin(0)
    torch.testing.assert_close(margin(made), least, rtol=0, atol=1e-9)


def square_by_hand(network: nn.Module, image: Tensor, label: int, place: int, eps: float, queries: int) -> Tensor:
    """One image, one query after the other."""
    lower, upper = (image - eps).clamp(0, 1), (image + eps).clamp(0, 1)
    key, index = stream(0, "attack:square", 0), torch.tensor([place])

    def margin(x: Tensor) -> float:
        logits = network(x[None])[0]
        return float(logits[label] - logits[[k for k in range(len(logits)) if k != label]].max())

    stripes = bits(stream(key, "start"), index, (3, 1, SIZE))[0] & 1
    now = torch.where(stripes.bool(), upper, lower)
    best = margin(now)
    for query in range(queries):
        if best < 0:
            break
        side = side_of(query, SIZE, SIZE)
        drawn = bits(stream(key, "square", query), index, (5,))[0]
        top, first = (((drawn[:2] & 0x7FFFFFFF) * (SIZE - side + 1)) >> 31).tolist()
        there = now.clone()
        for channel, bit in enumerate((drawn[2:] & 1).tolist()):
            edge = upper if bit else lower
            there[channel, top : top + side, first : first + side] = edge[
                channel, top : top + side, first : first + side
            ]
        if margin(there) < best:
            now, best = there, margin(there)
    return now


@pytest.mark.parametrize("count", [1, 3, 7, 16, 21])
@pytest.mark.parametrize("queries", [0, 1, 2, 37])
def test_squares_asked_about_at_once_are_those_of_one_query_after_the_other(
    count: int, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, network, eps = random(count, 3, SIZE, SIZE), Watched(Rough(6, 0.5)), 10 / 255
    labels, index = network.inner(images).argmax(1), torch.arange(count) + 5
    wanted = [square_by_hand(network.inner, *each, eps, queries) for each in zip(images, labels, index, strict=True)]
    attack = Square(eps_255=10.0, queries=queries)
    calls = []
    for rows in (rows_to_fill, lambda count, *_: count, lambda count, *_: 5 * count, lambda *_: count + 2):
        monkeypatch.setattr(square, "rows_to_fill", rows)
        network.asked.clear()
        made = attack.perturb(network, images, labels, index=index, seed=0, clean_logits=network.inner(images))
        assert torch.equal(made, torch.stack(wanted)), rows
        calls.append(len(network.asked))
    assert max(calls) <= queries + 1 and (count == 16 or queries < 37 or calls[0] < calls[1])
    left = int((network.inner(made).argmax(1) == labels).sum())
    assert count < 16 or 0 < left < count  # some are broken on the way, some never


FILTERS = [None, Filter("lowpass", 3), Filter("highpass", 1)]


@pytest.mark.parametrize("first", [Natural(), TPGD(eps_255=60.0, steps=3)], ids=lambda attack: attack.name)
def test_what_is_known_is_known_behind_its_own_filter(first: Natural | TPGD) -> None:
    network, images = Rough(3, 0.8), random(60, 3, SIZE, SIZE)
    labels = (network(images).argmax(1) + (torch.arange(60) % 4 == 0)) % 3
    second = TPGD(name="other", eps_255=60.0, steps=2)
    parts = (first, second)
    how = {"seed": 1, "batch_size": 25, "filters": FILTERS, "adaptive": True}
    stored = {
        (part.name, seen): correct
        for part in parts
        for seen, correct in evaluate(network, part, images, labels, **{**how, "adaptive": part.uses_network}).items()
    }
    assert len({tuple(stored[second.name, seen].tolist()) for seen in FILTERS}) == 3
    whole = Ensemble(name="worst", eps_255=60.0, parts=parts)
    for known in ({}, {key: value for key, value in stored.items() if key[0] == first.name}, stored):
        clean = CleanLogits(network, images, 25)
        found = evaluate_ensemble(network, whole, images, labels, clean=clean, known=known, **how)
        for seen in FILTERS:
            assert torch.equal(found[seen].correct, stored[first.name, seen] & stored[second.name, seen])


@pytest.mark.parametrize("seen", FILTERS[1:])
def test_an_attack_behind_a_filter_that_asks_for_clean_logits_has_those_behind_it(seen: Filter) -> None:
    network, images = Rough(3, 0.8), random(60, 3, SIZE, SIZE)
    labels = network(images).argmax(1)

    class Behind(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            from ablate.analysis.lowpass import filtered

            return network(filtered(x, seen))

    attack = TPGD(eps_255=30.0, steps=3)
    found = evaluate(network, attack, images, labels, seed=0, batch_size=60, filters=[seen], adaptive=True)[seen]
    plain = evaluate(Behind(), attack, images, labels, seed=0, batch_size=60)[None]
    assert torch.equal(found, plain) and 0 < int(found.sum()) < math.inf


def test_a_column_of_parts_tells_how_far_it_is_by_what_its_parts_cost() -> None:
    network, images = Rough(3, 0.8), random(10, 3, SIZE, SIZE)
    labels = network(images).argmax(1)
    whole = Ensemble(name="both", eps_255=8.0, parts=(Natural(), Square(eps_255=8, queries=2)))
    told: list[tuple[int, int]] = []
    evaluate_ensemble(
        network,
        whole,
        images,
        labels,
        seed=0,
        batch_size=4,
        progress=lambda done, count: told.append((done, count)),
        costs=[10, 90],
    )
    assert {count for _, count in told} == {100}
    assert [done for done, _ in told[:3]] == [4, 8, 10]  # three batches of the first part
    assert [done for done, _ in told] == sorted(done for done, _ in told) and told[-1][0] == 100
