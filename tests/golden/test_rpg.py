"""The eight losses of RPG (rows 16 and 17) against `grad (E_pi[R] - beta Div)` over every answer of one token, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.built import algorithm
from helpers.enumeration import Problem
from torch import Tensor

from align.contexts import TokenContext

FIVE = Problem(5)
POLICY, OLD = FIVE.random(1), FIVE.random(2)
REWARDS = torch.tensor([1.0, -0.5, 0.3, 2.0, 0.0], dtype=torch.float64)
BETA = 0.7
DIVERGENCES = {"forward_kl": lambda pi, old: (old * (old / pi).log()).sum(), "reverse_kl": lambda pi, old: (pi * (pi / old).log()).sum()}
OF_THE_PAPER = {
    ("forward_kl", False): (lambda w, r: -w * r - BETA * w.log(), lambda w, r: w * r + BETA),
    ("reverse_kl", False): (lambda w, r: w * (-r + BETA * w.log()), lambda w, r: w * (r - BETA * (w.log() + 1))),
    ("forward_kl", True): (lambda w, r: -w * r + BETA * (w - w.log() - 1), lambda w, r: w * r - BETA * (w - 1)),
    ("reverse_kl", True): (lambda w, r: -w * r + BETA * (w * w.log() - w + 1), lambda w, r: w * (r - BETA * w.log())),
}
"""The loss of a token, and its weight W in the REINFORCE style, of w = pi/pi_old and R; URKL with the constant beta."""


def context(leaf: Tensor) -> TokenContext:
    ctx = FIVE.context(leaf, OLD, OLD)
    return replace(ctx, batch=replace(ctx.batch, ref_logp={}))


def made(name: str, divergence: str, unnormalised: bool, **keys):
    return algorithm(name, divergence=divergence, unnormalised=unnormalised, beta=BETA, **keys)


@pytest.mark.parametrize(
    ("name", "keys"), [("rpg", {}), ("rpg_reinforce", {"surrogate": "reinforce"})], ids=["differentiable", "reinforce"]
)
@pytest.mark.parametrize(("divergence", "unnormalised"), OF_THE_PAPER)
def test_row_16_the_gradient_is_that_of_the_objective(name: str, keys: dict, divergence: str, unnormalised: bool):
    leaf = POLICY.clone().requires_grad_()
    ctx = context(leaf)
    loss, found = made(name, divergence, unnormalised, **keys).loss(ctx, REWARDS)
    (gradient,) = torch.autograd.grad((ctx.batch.loss_weights * loss).sum(), leaf, retain_graph=True)
    pi, old = torch.softmax(leaf[0], -1), torch.softmax(OLD[0], -1)
    divergence_now = DIVERGENCES[divergence](pi, old)
    (wanted,) = torch.autograd.grad((pi * REWARDS).sum() - BETA * divergence_now, leaf, retain_graph=True)
    torch.testing.assert_close(gradient, -wanted, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close((old * found["rpg/divergence"]).sum(), divergence_now.detach(), rtol=1e-12, atol=1e-14)
    _, weight = OF_THE_PAPER[divergence, unnormalised]
    w = (pi / old).detach()
    for token in range(5):
        (one,) = torch.autograd.grad(loss[token], leaf, retain_graph=True)
        (score,) = torch.autograd.grad(ctx.logp[token], leaf, retain_graph=True)
        torch.testing.assert_close(one, -weight(w, REWARDS)[token] * score, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("divergence", "unnormalised"), OF_THE_PAPER)
def test_the_value_of_the_differentiable_loss_is_the_papers(divergence: str, unnormalised: bool):
    loss, _ = made("rpg", divergence, unnormalised).loss(context(POLICY), REWARDS)
    w = (torch.log_softmax(POLICY[0], -1) - torch.log_softmax(OLD[0], -1)).exp()
    wanted, _ = OF_THE_PAPER[divergence, unnormalised]
    torch.testing.assert_close(loss, wanted(w, REWARDS), rtol=1e-12, atol=1e-14)


def test_row_17_the_mean_of_k3_is_the_unnormalised_kl():
    _, found = made("rpg", "forward_kl", True).loss(context(POLICY), REWARDS)
    x = torch.log_softmax(POLICY[0], -1) - torch.log_softmax(OLD[0], -1)
    torch.testing.assert_close(found["rpg/divergence"], torch.expm1(x) - x)


def test_the_clip_takes_the_regularised_advantage():
    """w = e, A = .2 and beta log w = .7: A - beta log w is negative, so the upper bound does not hold the token down."""
    leaf = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    ctx = context(POLICY)
    ctx = TokenContext(batch=replace(ctx.batch.select(torch.tensor([0])), old_logp=leaf.detach() - 1), logp=leaf, entropy=leaf.detach())
    loss, stats = made("rpg_reinforce", "reverse_kl", True).loss(ctx, torch.tensor([0.2], dtype=torch.float64))
    (slope,) = torch.autograd.grad(loss.sum(), leaf)
    assert stats["ratio/clipped"].tolist() == [0.0]
    torch.testing.assert_close(slope.item(), torch.e * 0.5, rtol=1e-12, atol=0)
