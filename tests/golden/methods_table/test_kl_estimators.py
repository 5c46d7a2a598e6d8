"""Section A of the methods' oracle table: k1, k2, k3 and `sampled`, as a loss and in the reward (rows 1 to 9b)."""

from __future__ import annotations

import pytest
import torch
from golden.methods_table.token_contexts import packed, random_tokens
from golden.methods_table.toys import FUNCTIONS, G4, G5, SHIPPED, close, loss_gradient, mean, penalty_of, regularizer, slope
from helpers.enumeration import NAME, Problem, gradient, sequence_objective, summed_objective
from torch import Tensor

from align.divergences.reverse_kl import ReverseKl
from align.estimators.exact import Exact
from align.estimators.k1 import K1
from align.estimators.k2 import K2
from align.estimators.k3 import K3
from align.estimators.sampled import Sampled

GRAD_REVERSE = [0.39935016, -0.14256013, -0.07758379, -0.07933841, -0.09986784]
GRAD_FORWARD = [0.3, -0.05, 0.0, -0.05, -0.2]


@pytest.mark.parametrize(
    ("pair", "estimator", "expected"),
    [
        (G5, K1(), 0.3879189488),
        (G5, K3(), 0.3879189488),
        (G5, K2(), 0.4614949124),
        (G5, Sampled(), 0.3879189488),
        (G5, Exact(), 0.3879189488),
        (G4, K1(), 0.4564348191),
        (G4, K3(), 0.4564348191),
        (G4, K2(), 0.5215535024),
    ],
)
def test_row_1_values(pair, estimator, expected):
    penalty, ctx, _ = penalty_of(ReverseKl(), estimator, pair)
    close(mean(ctx, penalty.value), expected)


@pytest.mark.parametrize(("estimator", "expected"), [(K1(), 1.38629436), (K2(), 0.96090603), (K3(), 0.63629436)])
def test_row_2_outcome_with_u_4(estimator, expected):
    penalty, _, _ = penalty_of(ReverseKl(), estimator)
    close(penalty.value[0], expected, 8)


@pytest.mark.parametrize("pair", [G4, G5])
def test_row_3_k1_as_loss_is_noise(pair):
    penalty, ctx, leaf = penalty_of(ReverseKl(), K1(), pair)
    close(loss_gradient(penalty, ctx, leaf), torch.zeros_like(leaf), 15)
    assert torch.autograd.grad(penalty.loss.sum(), leaf)[0].abs().max() > 0.1, "each sample does push"


@pytest.mark.parametrize("estimator", [K2(), Sampled(), Exact()])
def test_row_4_and_8_gradient_of_reverse_kl(estimator):
    """Row 8: `sampled` on-policy has the value of k3 and the gradient of k2."""
    penalty, ctx, leaf = penalty_of(ReverseKl(), estimator)
    close(loss_gradient(penalty, ctx, leaf)[0], GRAD_REVERSE, 8)
    if isinstance(estimator, Sampled):
        u = G5[0] / G5[1]
        close(penalty.value, 1 / u - 1 + u.log(), 14)


def test_golden_gradients_of_g4():
    for estimator, expected in ((K2(), [0.3719438168, -0.0152909133, -0.1723799855, -0.1842729180]), (K3(), [0.3, 0.1, -0.1, -0.3])):
        close(loss_gradient(*penalty_of(ReverseKl(), estimator, G4))[0], expected)


def test_row_5_k3_as_loss_descends_forward_kl():
    close(loss_gradient(*penalty_of(ReverseKl(), K3()))[0], GRAD_FORWARD, 14)


def test_row_6_rho_k3_equals_weighed_k2_per_sample():
    """autograd of rho * k3 with the ratio attached, of sg(rho) * k2, and ours: one gradient, sample by sample."""
    pi, mu, ref = random_tokens()
    rho, delta = torch.exp(pi - mu), ref - pi
    attached = torch.autograd.grad((rho * (torch.exp(delta) - 1 - delta)).sum(), pi, retain_graph=True)[0]
    weighed = torch.autograd.grad((rho.detach() * 0.5 * delta**2).sum(), pi)[0]
    penalty = regularizer(ReverseKl(), Sampled()).penalty(packed(pi, mu, ref, [1] * 50), NAME)
    ours = torch.autograd.grad(penalty.loss.sum(), pi)[0]
    close(attached, weighed, 14)
    close(ours, weighed, 14)


def test_row_7_k3_in_the_reward():
    close(
        loss_gradient(*penalty_of(ReverseKl(), K3(), placement="reward"))[0],
        [0.09935016, -0.09256013, -0.07758379, -0.02933841, 0.10013216],
        8,
    )
    close(loss_gradient(*penalty_of(ReverseKl(), K1(), placement="reward"))[0], GRAD_REVERSE, 8)


TWO_TOKENS = Problem(4, 2)


def two_token_gradient(divergence, estimator, placement, credit) -> Tensor:
    leaf = TWO_TOKENS.random(1).requires_grad_()
    ctx = TWO_TOKENS.context(leaf, None, TWO_TOKENS.random(2))
    return loss_gradient(regularizer(divergence, estimator, placement, credit).penalty(ctx, NAME), ctx, leaf)


def test_row_9_reward_to_go_of_k1_on_two_tokens():
    logits, ref = TWO_TOKENS.random(1), TWO_TOKENS.random(2)
    exact = gradient(lambda x: sequence_objective(FUNCTIONS["reverse_kl"], TWO_TOKENS, x, ref), logits)
    close(two_token_gradient(ReverseKl(), K1(), "reward", "summed"), exact, 13)
    close(two_token_gradient(ReverseKl(), K2(), "loss", "sequence"), exact, 13)
    assert (two_token_gradient(ReverseKl(), K2(), "loss", "local") - exact).norm() > 0.05


@pytest.mark.parametrize("name", SHIPPED)
def test_row_9b_divergences_on_two_tokens(name):
    """Own coefficient plus future values is exact, the return-to-go of the coefficient only for reverse KL."""
    logits, ref, f = TWO_TOKENS.random(1), TWO_TOKENS.random(2), FUNCTIONS[name]
    summed = gradient(lambda x: summed_objective(f, TWO_TOKENS, x, ref), logits)
    close(two_token_gradient(SHIPPED[name], Sampled(), "loss", "summed"), summed, 12)
    sequence = gradient(lambda x: sequence_objective(f, TWO_TOKENS, x, ref), logits)
    close(two_token_gradient(SHIPPED[name], Sampled(), "loss", "sequence"), sequence, 12)

    leaf = logits.clone().requires_grad_()
    ctx = TWO_TOKENS.context(leaf, None, ref)
    log_u = (ctx.logp - ctx.batch.ref_logp[NAME]).detach()
    c = slope(f, log_u.exp()) - slope(f, torch.ones_like(log_u))
    last = ctx.batch.positions == 1
    to_go = c + torch.where(last, 0.0, c.roll(-1))
    naive = torch.autograd.grad(mean(ctx, to_go * ctx.logp), leaf)[0]
    assert ((naive - summed).norm() < 1e-12) == (name == "reverse_kl")
    assert name == "reverse_kl" or (naive - summed).norm() > 0.01
