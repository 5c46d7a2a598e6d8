"""Plackett-Luce and Bradley-Terry: probabilities that sum to 1, their gradient, and the scores they recover."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from helpers.built import part
from torch import Tensor

from align.core.ranking import pairs
from align.preferences import Rankings

SCORES = torch.tensor([0.3, -1.2, 2.0, 0.7], dtype=torch.float64)


def plackett_luce(scores: Tensor, ids: Tensor, beta: float = 1.0) -> Tensor:
    rankings = Rankings(scores=scores, beta=torch.full_like(scores, beta), lengths=torch.ones_like(ids), ids=ids)
    return part("preference", "plackett_luce").of_rankings(rankings)


def one(scores: Tensor) -> Tensor:
    return plackett_luce(scores, torch.zeros(len(scores), dtype=torch.int64))[0]


def by_hand(scores: Tensor) -> Tensor:
    """The best is drawn in proportion to e^s, then the best of the rest."""
    weights, probability = scores.exp(), 1.0
    for k in range(len(scores)):
        probability = probability * weights[k] / weights[k:].sum()
    return -probability.log()


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_row_49_the_orders_of_k_answers_share_all_probability(k: int):
    total = sum((-one(SCORES[list(order)])).exp() for order in permutations(range(k)))
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64), rtol=1e-14, atol=0)


def test_row_49_two_answers_are_bradley_terry():
    torch.testing.assert_close(one(SCORES[:2]), -torch.nn.functional.logsigmoid(SCORES[0] - SCORES[1]), rtol=1e-14, atol=0)


def test_four_answers_by_hand():
    torch.testing.assert_close(one(SCORES), by_hand(SCORES), rtol=1e-14, atol=0)


def test_groups_of_any_size_do_not_mix():
    ids = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])
    scores = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    found = plackett_luce(scores, ids)
    torch.testing.assert_close(found, torch.stack([by_hand(scores[ids == g]) for g in range(3)]), rtol=1e-13, atol=1e-14)
    gradient = torch.autograd.grad((found * torch.tensor([1.0, 2.0, 3.0])).sum(), scores, retain_graph=True)[0]
    expected = torch.autograd.grad(sum((g + 1) * by_hand(scores[ids == g]) for g in range(3)), scores)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


def test_beta_multiplies_the_scores():
    torch.testing.assert_close(plackett_luce(SCORES, torch.zeros(4, dtype=torch.int64), 0.3)[0], by_hand(0.3 * SCORES), rtol=1e-14, atol=0)


def test_of_rankings_of_three_the_other_losses_are_the_mean_over_pairs():
    ids = torch.tensor([0, 0, 0, 1, 1])
    scores = torch.tensor([0.3, -1.2, 2.0, 0.7, 0.1], dtype=torch.float64)
    rankings = Rankings(scores=scores, beta=torch.full_like(scores, 0.5), lengths=torch.ones_like(ids), ids=ids)
    found = part("preference", "sigmoid").of_rankings(rankings)
    pair = [-torch.nn.functional.logsigmoid(0.5 * (scores[i] - scores[j])) for i, j in ((0, 1), (0, 2), (1, 2), (3, 4))]
    torch.testing.assert_close(found, torch.stack([sum(pair[:3]) / 3, pair[3]]), rtol=1e-14, atol=0)


def test_only_differences_within_a_group_count_and_large_scores_do_not_overflow():
    torch.testing.assert_close(one(SCORES.float() + 1000), one(SCORES.float()), rtol=1e-4, atol=0)
    far = torch.tensor([0.0, 300.0, -300.0], requires_grad=True)
    loss = one(far)
    assert loss.item() == 300.0
    assert torch.autograd.grad(loss, far)[0].tolist() == [-1.0, 1.0, 0.0]


def test_the_likeliest_scores_are_those_that_drew_the_rankings():
    """Zero gradient in the population, for rankings of three of four answers and for pairs (consistency; Zhu et al. 2301.11270)."""
    for k in (2, 3):
        scores, loss = SCORES.clone().requires_grad_(), 0.0
        for order in permutations(range(4), k):
            chosen = list(order)
            loss = loss + (-by_hand(SCORES[chosen])).exp() * one(scores[chosen])
        (gradient,) = torch.autograd.grad(loss, scores)
        assert gradient.abs().max() < 1e-15
        moved = torch.autograd.grad(one(scores[[0, 1, 2]]), scores)[0]
        assert moved.abs().max() > 0.1


def test_pairs_are_every_two_of_a_group_better_first():
    better, worse = pairs(torch.tensor([0, 0, 1, 2, 2, 2]))
    assert list(zip(better.tolist(), worse.tolist(), strict=True)) == [(0, 1), (3, 4), (3, 5), (4, 5)]
    better, worse = pairs(torch.tensor([1, 0, 1, 0]))
    assert list(zip(better.tolist(), worse.tolist(), strict=True)) == [(0, 2), (1, 3)]
    assert [len(x) for x in pairs(torch.tensor([0, 1, 2]))] == [0, 0]
