"""The link from log-ratios to implicit rewards: its values and slopes for every divergence, its tangents, and SamPO's choice of tokens."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.built import part, preference_loss, single_turn
from helpers.definitions import every
from torch import Tensor

from align.config.registry import _complete
from align.core.links import accuracy, link
from align.core.logprobs import exact_divergence
from align.core.segments import segment_sum
from align.divergences import Divergence
from align.divergences.forward_kl import ForwardKl
from align.divergences.neyman import Neyman
from align.divergences.reverse_kl import ReverseKl
from align.divergences.total_variation import TotalVariation
from align.types import TokenBatch
from align.weightings.sampo import Sampo

KNOWN = {name: known for name, known in every().items() if known.divergence.is_f_divergence}
EVERY = pytest.mark.parametrize("name", KNOWN)


def linked(divergence: Divergence, log_ratio: Tensor, limit: float = 40.0) -> tuple[Tensor, Tensor]:
    """Scores, and their slopes in the log-ratio."""
    x = log_ratio.clone().requires_grad_()
    scores = link(divergence.grad_weight, x, limit)
    assert scores.dtype == x.dtype
    return scores.detach(), torch.autograd.grad(scores.sum(), x)[0]


@EVERY
def test_scores_and_slopes_are_those_of_the_definition(name: str):
    """c = f'(u) - f'(1) and dc/dlog u = u f''(u), by autograd of f as its paper writes it."""
    x = torch.linspace(-3, 3, 25, dtype=torch.float64) + 0.01
    u = x.exp().requires_grad_()
    (first,) = torch.autograd.grad(KNOWN[name](u).sum(), u, create_graph=True)
    one = torch.ones((), dtype=torch.float64, requires_grad=True)
    (at_one,) = torch.autograd.grad(KNOWN[name](one), one)
    slope = u * torch.autograd.grad(first.sum(), u)[0]
    constant = 0.0 if name == "total_variation" else at_one  # |u - 1| has a corner at 1, and the subgradient 0 there
    scores, slopes = linked(KNOWN[name].divergence, x)
    torch.testing.assert_close(scores, (first - constant).detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slopes, slope.detach(), rtol=1e-8, atol=1e-8)


@EVERY
def test_a_class_with_f_alone_links_as_the_shipped_one(name: str):
    known = KNOWN[name]
    own = _complete(type("Own", (), {"f": lambda self, log_u: known(torch.exp(log_u))}), "divergence", "own")()
    x = torch.tensor([-2.5, -0.3, 0.4, 2.0], dtype=torch.float64)
    for found, expected in zip(linked(own, x), linked(known.divergence, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@EVERY
@pytest.mark.parametrize("limit", [2.0, 20.0])
def test_beyond_the_limit_it_goes_on_along_its_tangent(name: str, limit: float):
    divergence = KNOWN[name].divergence
    edges = torch.tensor([-limit, limit], dtype=torch.float64)
    at_edge, slope = linked(divergence, edges)
    beyond = edges * 1.5
    scores, slopes = linked(divergence, beyond, limit)
    torch.testing.assert_close(scores, at_edge + slope * (beyond - edges), rtol=1e-14, atol=0)
    assert torch.equal(slopes, slope)


@EVERY
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 20.0), (torch.float64, 40.0)])
def test_it_is_finite_and_increasing_however_far_the_answers_drift(name: str, dtype: torch.dtype, limit: float):
    x = torch.cat([torch.linspace(-60, 60, 241), torch.tensor([-2000.0, 2000.0])]).sort().values.to(dtype)
    scores, slopes = linked(KNOWN[name].divergence, x, limit)
    assert scores.isfinite().all() and slopes.isfinite().all()
    if name != "k2_functional":  # whose f is not convex
        rounding = 4 * torch.finfo(dtype).eps * scores.abs()
        assert (scores.diff() >= -rounding[1:]).all() and (slopes >= -torch.finfo(dtype).eps * slopes.max()).all()


def test_row_18_reverse_kl_is_the_log_ratio_itself():
    x = torch.tensor([0.5, -0.3, 1e-9, -39.9, 17.123456789], dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        scores, slopes = linked(ReverseKl(), x.to(dtype))
        assert torch.equal(scores, x.to(dtype)) and torch.equal(slopes, torch.ones(5, dtype=dtype))
    far = torch.tensor([-713.3, 1234.5])
    torch.testing.assert_close(linked(ReverseKl(), far)[0], far, rtol=1e-7, atol=0)


def test_row_23_total_variation_teaches_nothing():
    x = torch.tensor([0.5, -0.3, 2.0, -1.0], dtype=torch.float64).requires_grad_()
    scores = link(TotalVariation().grad_weight, x, 40.0)
    loss = preference_loss(part("preference", "sigmoid"), scores[::2], scores[1::2], torch.full((len(scores) // 2,), 0.1)).sum()
    assert torch.equal(torch.autograd.grad(loss, x)[0], torch.zeros(4, dtype=torch.float64))


def test_an_answer_given_up_is_pulled_back_hard_but_finitely():
    for divergence, slope in ((ForwardKl(), math.exp(30)), (Neyman(), 2 * math.exp(60))):
        scores, slopes = linked(divergence, torch.tensor([-300.0]), limit=30.0)
        assert scores.item() < -slope and slopes.item() == pytest.approx(slope, rel=1e-6)


def test_accuracy():
    chosen, rejected = torch.tensor([2.0, 1.0, -1.0], requires_grad=True), torch.tensor([1.0, 1.0, 3.0])
    assert accuracy(chosen, rejected).tolist() == [1.0, 0.5, 0.0] and not accuracy(chosen, rejected).requires_grad


# SamPO: the log-ratio of as many tokens of either answer as the shorter has.


def two_answers(lengths: list[int], token: int) -> TokenBatch:
    """Prompts of one token, answers of the same token throughout; `token` sets another draw of positions."""
    counts = torch.tensor(lengths)
    return TokenBatch(
        input_ids=torch.full((2, 1 + max(lengths)), token),
        **single_turn(torch.ones(2, dtype=torch.int64), counts),
        group_ids=torch.zeros(2, dtype=torch.int64),
    )


def log_ratios(batch: TokenBatch, per_token: Tensor) -> Tensor:
    return segment_sum(Sampo().weights(batch, "kl").double() * per_token, batch.seq_ids, 2)


def test_row_39_sampo_of_equal_lengths_is_dpo():
    per_token = torch.linspace(-1, 2, 12, dtype=torch.float64)
    batch = two_answers([6, 6], 0)
    assert torch.equal(log_ratios(batch, per_token), segment_sum(per_token, batch.seq_ids, 2))


def test_row_39_sampo_sums_as_many_tokens_of_the_longer_answer():
    batch, c = two_answers([3, 8], 0), torch.tensor([0.4] * 3 + [-0.7] * 8, dtype=torch.float64)
    torch.testing.assert_close(log_ratios(batch, c), torch.tensor([1.2, -2.1], dtype=torch.float64), rtol=1e-14, atol=0)
    # Of tokens that differ, on average T_m/|y| of the whole.
    c[3:] = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0, -1.0, 2.0, 0.5])
    drawn = torch.stack([log_ratios(two_answers([3, 8], token), c) for token in range(2000)])
    assert torch.equal(drawn[:, 0], torch.full((2000,), drawn[0, 0].item(), dtype=torch.float64))
    error = drawn[:, 1].std() / 2000**0.5
    assert abs(drawn[:, 1].mean() - 3 / 8 * c[3:].sum()) < 3 * error and error < 0.06


def test_row_38_the_divergence_from_a_soup():
    """KL(pi||soup) = mean of KL(pi||a), KL(pi||b) + log sum sqrt(a b), the soup being the mean of tabular logits."""
    generator = torch.Generator().manual_seed(0)
    pi, a, b = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    soup = (a + b) / 2
    logp, log_a, log_b, log_soup = (torch.log_softmax(x, -1) for x in (pi, a, b, soup))
    kl = [exact_divergence(ReverseKl(), logp, ref) for ref in (log_soup, log_a, log_b)]
    torch.testing.assert_close(kl[0], (kl[1] + kl[2]) / 2 + ((log_a + log_b) / 2).logsumexp(0), rtol=1e-13, atol=0)
