from __future__ import annotations

import itertools
import pickle

import pytest
import torch

from ablate.analysis.similarity import MinibatchCKA, gram, hsic, linear_cka, shallow_deep_similarity


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int, seed: int = 0) -> list[torch.Tensor]:
    """Three layers of which the later ones know something of the first."""
    first = noise(n, 6, seed=seed)
    second = torch.relu(first @ noise(6, 5, seed=100)) + 0.3 * noise(n, 5, seed=seed + 1)
    third = (second @ noise(5, 8, seed=101)).reshape(n, 2, 2, 2) + 2.0
    return [first, second, third]


@pytest.mark.parametrize("unbiased", [False, True])
def test_invariances(unbiased) -> None:
    x, y, _ = related(20)
    value = linear_cka(x, y, unbiased)
    orthogonal = torch.linalg.qr(noise(6, 6, seed=7))[0]
    torch.testing.assert_close(linear_cka(x, x, unbiased), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(linear_cka(y, x, unbiased), value)
    torch.testing.assert_close(linear_cka(x @ orthogonal, y, unbiased), value)
    torch.testing.assert_close(linear_cka(-3.0 * x, 0.1 * y, unbiased), value)
    torch.testing.assert_close(linear_cka(x + 5.0, y - noise(1, 5, seed=8), unbiased), value)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(linear_cka(x[order], y[order], unbiased), value)
    scaled = linear_cka(x * torch.arange(1.0, 7.0), y, unbiased)
    assert not torch.allclose(scaled, value)  # not invariant to any linear map


def test_the_biased_value_is_kornbliths_formula() -> None:
    """|Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F) with centred features."""
    x, y, _ = related(15)
    x, y = x - x.mean(0), y - y.mean(0)
    expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    torch.testing.assert_close(linear_cka(x, y), expected)


def test_unbiased_hsic_is_the_u_statistic() -> None:
    """The mean over all quadruples of distinct examples of (K_ij L_ij + K_ij L_kl - 2 K_ij L_ik)."""
    x, y, _ = related(7)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    quadruples = list(itertools.permutations(range(7), 4))
    terms = [k[i, j] * (l[i, j] + l[a, b] - 2 * l[i, a]) for i, j, a, b in quadruples]
    torch.testing.assert_close(hsic(gram(x)[None], gram(y)[None])[0, 0], torch.stack(terms).mean())


def test_biased_hsic_is_its_definition() -> None:
    x, y, _ = related(9)
    centring = torch.eye(9, dtype=torch.float64) - 1 / 9
    expected = torch.trace(x @ x.T @ centring @ y @ y.T @ centring) / 64
    torch.testing.assert_close(hsic(gram(x)[None], gram(y)[None], unbiased=False)[0, 0], expected)


def test_unrelated_layers_average_to_zero_only_without_the_bias() -> None:
    """Twelve examples in forty dimensions: the biased estimate says 0.8 of two that share nothing."""
    pairs = [(noise(12, 40, seed=seed), noise(12, 40, seed=1000 + seed)) for seed in range(60)]
    unbiased = torch.stack([linear_cka(x, y, unbiased=True) for x, y in pairs])
    biased = torch.stack([linear_cka(x, y) for x, y in pairs])
    assert abs(unbiased.mean()) < 0.05 and biased.min() > 0.5


def test_one_minibatch_agrees_with_the_unbiased_full_batch() -> None:
    layers = related(16)
    cka = MinibatchCKA()
    cka.update(layers)
    expected = torch.stack([torch.stack([linear_cka(x, y, unbiased=True) for y in layers]) for x in layers])
    torch.testing.assert_close(cka.matrix(), expected)


def test_hsic_is_averaged_before_the_ratio() -> None:
    cka, values = MinibatchCKA(), []
    for seed in range(3):
        layers = related(10, seed=10 * seed)
        cka.update(layers)
        grams = torch.stack([gram(x) for x in layers])
        values.append(hsic(grams, grams))
    mean = torch.stack(values).mean(0)
    expected = mean / (mean.diagonal()[:, None] * mean.diagonal()[None, :]).sqrt()
    torch.testing.assert_close(cka.matrix(), expected)
    torch.testing.assert_close(cka.matrix().diagonal(), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(cka.matrix(), cka.matrix().T)
    assert cka.batches == 3


def test_many_minibatches_come_near_the_whole() -> None:
    layers = related(2000)
    cka = MinibatchCKA()
    for parts in zip(*(layer.split(50) for layer in layers), strict=True):
        cka.update(parts)
    for i, j in itertools.combinations(range(3), 2):
        assert cka.matrix()[i, j].item() == pytest.approx(linear_cka(layers[i], layers[j], True).item(), abs=0.03)


def test_two_networks_give_a_rectangle() -> None:
    layers = related(12)
    cka = MinibatchCKA()
    cka.update(layers[:1], layers)
    whole = MinibatchCKA()
    whole.update(layers)
    assert cka.matrix().shape == (1, 3)
    torch.testing.assert_close(cka.matrix(), whole.matrix()[:1])


def test_layers_of_another_network_are_normed_by_their_own() -> None:
    ours, theirs = related(12), [3.0 * x[:, :2] for x in related(12)]
    cka = MinibatchCKA()
    cka.update(ours, theirs)
    expected = [[linear_cka(one, other, unbiased=True) for other in theirs] for one in ours]
    torch.testing.assert_close(cka.matrix(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_grams_may_be_given_instead_of_activations() -> None:
    layers = related(12)
    from_activations, from_grams = MinibatchCKA(), MinibatchCKA()
    from_activations.update(layers)
    from_grams.update([gram(x) for x in layers], grams=True)
    assert torch.equal(from_activations.matrix(), from_grams.matrix())


def test_what_is_kept_does_not_grow() -> None:
    cka = MinibatchCKA()

    def kept() -> int:
        return len(pickle.dumps(cka))

    cka.update(related(8))
    cka.update(related(8))
    once = kept()
    for seed in range(20):
        cka.update(related(8, seed=seed))
    assert kept() == once


def test_large_means_cost_no_digits_in_float32() -> None:
    x, y, _ = related(16)
    exact = linear_cka(x, y, True)
    single = linear_cka((x + 1000).float(), (y + 1000).float(), True)
    torch.testing.assert_close(single, exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("unbiased", [False, True])
def test_a_constant_layer_is_like_nothing_and_finite(unbiased) -> None:
    x = noise(10, 4).float()
    assert linear_cka(torch.full((10, 7), 0.1), x, unbiased) == 0
    cka = MinibatchCKA()
    cka.update([x, torch.full((10, 7), 0.1)])
    torch.testing.assert_close(cka.matrix(), torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64))


def test_half_precision_is_raised() -> None:
    assert gram(noise(5, 4).to(torch.bfloat16)).dtype == torch.float32


def test_unequal_minibatches_are_refused() -> None:
    cka = MinibatchCKA()
    cka.update(related(8))
    with pytest.raises(ValueError, match="expected minibatches of 8 examples, got 6"):
        cka.update(related(6))
    with pytest.raises(ValueError, match="expected minibatches of 8 examples, got 6"):
        cka.update(related(8), related(6))
    with pytest.raises(ValueError, match="expected the same layers"):
        cka.update(related(8)[:2])
    assert cka.batches == 1


def test_too_few_examples_and_none_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 examples"):
        MinibatchCKA().update(related(3))
    with pytest.raises(ValueError, match="at least one minibatch"):
        MinibatchCKA().matrix()


def test_shallow_and_deep_thirds() -> None:
    matrix = torch.eye(7)
    matrix[:2, 5:] = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    assert shallow_deep_similarity(matrix).item() == pytest.approx(0.25)
    with pytest.raises(ValueError, match="at least 3 layers"):
        shallow_deep_similarity(torch.eye(2))
