"""Factors of a difference: the best approximation of its rank, in directions that can be compared."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cnt_pipeline.transplants.edit import blockwise, lora_factors
from cnt_pipeline.transplants.edit.lora_factors import Factors, aligned, cosine, factor, inner

torch.set_num_threads(1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int, seed: int = 0) -> Tensor:
    turn: Tensor = torch.linalg.qr(random(size, size, seed=seed)).Q
    return turn


def apart(found: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest entry."""
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(("shape", "rank"), [((20, 30), 4), ((30, 20), 7), ((9, 9), 9)])
def test_factors_are_the_best_approximation_of_their_rank(shape: tuple[int, int], rank: int) -> None:
    matrix = random(*shape)
    left, values, right = np.linalg.svd(matrix.numpy())
    best = sum(values[k] * np.outer(left[:, k], right[k]) for k in range(rank))
    assert apart(factor(matrix, rank).product(), torch.from_numpy(best)) < 1e-12


def test_both_factors_carry_the_scale_alike() -> None:
    factors = factor(random(20, 30), 5)
    assert apart(factors.b.T @ factors.b, factors.a @ factors.a.T) < 1e-12


def test_the_rank_is_at_most_the_smaller_side() -> None:
    matrix = random(6, 11)
    factors = factor(matrix, 128)
    assert factors.rank == 6
    assert apart(factors.product(), matrix) < 1e-12


def test_a_large_low_rank_difference_is_factored_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_factors, "EXACT_SIDE", 0)
    monkeypatch.setattr(lora_factors, "OVERSAMPLING", 2)
    matrix = random(60, 5) @ random(5, 90, seed=1)
    assert apart(factor(matrix, 5).product(), matrix) < 1e-12
    exact, found = torch.linalg.svdvals(matrix)[:5], factor(matrix, 5).b.square().sum(0)
    assert apart(found, exact) < 1e-12


def test_a_large_difference_of_full_rank_is_approximated_nearly_as_well_as_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lora_factors, "EXACT_SIDE", 0)
    matrix = random(150, 200)
    best = torch.linalg.svdvals(matrix)[8:].square().sum().sqrt()
    assert best <= (factor(matrix, 8).product() - matrix).norm() < 1.005 * best


def test_a_large_difference_may_be_gone_through_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_factors, "EXACT_SIDE", 0)
    matrix = random(60, 90)
    whole = factor(matrix, 4)
    monkeypatch.setattr(blockwise, "HELD", 500)
    assert apart(factor(matrix, 4).product(), whole.product()) < 1e-12


def test_a_large_difference_has_the_same_factors_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_factors, "EXACT_SIDE", 0)
    matrix = random(60, 90)
    one, other = factor(matrix, 4), factor(matrix, 4)
    assert torch.equal(one.b, other.b)
    assert torch.equal(one.a, other.a)


def test_scaling_multiplies_the_product_and_keeps_the_balance() -> None:
    factors = factor(random(20, 30), 5)
    scaled = factors.scaled(1.9)
    assert apart(scaled.product(), 1.9 * factors.product()) < 1e-12
    assert apart(scaled.b.T @ scaled.b, scaled.a @ scaled.a.T) < 1e-12


def test_trimming_keeps_an_adapters_directions_and_drops_rounding() -> None:
    base = random(40, 30).float()
    tuned = (base.double() + 0.01 * random(40, 3, seed=1) @ random(3, 30, seed=2)).float()
    factors = factor(tuned.double() - base.double(), 16)
    assert factors.rank == 16
    assert factors.trimmed().rank == 3
    assert apart(factors.trimmed().product(), factors.product()) < 1e-4


def test_trimming_keeps_every_direction_of_a_full_difference_and_none_of_no_difference() -> None:
    assert factor(random(12, 9), 9).trimmed().rank == 9
    assert factor(torch.zeros(12, 9), 9).trimmed().rank == 0


def test_alignment_undoes_any_turn_of_the_factors_and_keeps_their_product() -> None:
    factors = factor(random(20, 30), 6)
    turn = rotation(6)
    back = aligned(Factors(factors.b @ turn, turn.T @ factors.a), factors)
    assert apart(back.b, factors.b) < 1e-12
    assert apart(back.a, factors.a) < 1e-12
    other = factor(random(20, 30, seed=1), 6)
    assert apart(aligned(other, factors).product(), other.product()) < 1e-12


def test_no_other_turn_brings_the_factors_nearer() -> None:
    one, other = factor(random(20, 30), 6), factor(random(20, 30, seed=1), 6)

    def distance(factors: Factors) -> float:
        return float((factors.b - one.b).square().sum() + (factors.a - one.a).square().sum())

    nearest = aligned(other, one)
    for seed in range(50):
        step = torch.linalg.matrix_exp(0.05 * (random(6, 6, seed=seed) - random(6, 6, seed=seed).T))
        for turn in (step, rotation(6, seed)):
            assert distance(Factors(nearest.b @ turn, turn.T @ nearest.a)) > distance(nearest)


def test_of_two_turns_that_are_equally_near_one_is_taken_whatever_the_signs_of_the_decomposition() -> None:
    one, other = factor(random(8, 8), 8), factor(random(8, 8, seed=1), 8)
    if torch.det(one.product()) * torch.det(other.product()) > 0:
        other = Factors(other.b * torch.tensor([-1.0] + [1] * 7), other.a)
    assert torch.linalg.svdvals(other.b.T @ one.b + other.a @ one.a.T)[-1] < 1e-12
    wanted = aligned(other, one)
    for seed in range(20):
        signs = random(8, seed=seed).sign()
        found = aligned(Factors(other.b * signs, signs[:, None] * other.a), one)
        assert apart(found.b, wanted.b) < 1e-10
        assert apart(found.a, wanted.a) < 1e-10


def test_the_inner_product_and_the_cosine_are_those_of_the_matrices() -> None:
    one = Factors(random(7, 3), random(3, 5, seed=1))
    other = Factors(random(7, 2, seed=2), random(2, 5, seed=3))
    first, second = one.b.numpy() @ one.a.numpy(), other.b.numpy() @ other.a.numpy()
    wanted = sum(first[i, j] * second[i, j] for i in range(7) for j in range(5))
    assert inner(one, other) == pytest.approx(wanted, rel=1e-12)
    lengths = np.sqrt((first**2).sum() * (second**2).sum())
    assert cosine(one, other) == pytest.approx(wanted / lengths, rel=1e-12)


def test_the_cosine_with_a_zero_matrix_is_zero() -> None:
    assert cosine(factor(random(7, 5), 3), Factors(torch.zeros(7, 3).double(), torch.zeros(3, 5).double())) == 0
