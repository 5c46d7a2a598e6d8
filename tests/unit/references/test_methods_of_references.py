"""What references are for: TR-DPO, mirror descent and resets against their closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from helpers.enumeration import NAME, Problem
from torch import Tensor
from unit.references.learners import batch, hf, logp_of, make, sampled

from align.config.nodes import build_part
from align.contexts import TokenContext


def dpo(ctx: TokenContext, beta: float) -> Tensor:
    """-log sigmoid(beta (lr_w - lr_l)) of the first two answers."""
    ratio = torch.zeros(12).index_add(0, ctx.batch.seq_ids, ctx.logp - ctx.batch.ref_logp["kl"])
    return -torch.nn.functional.logsigmoid(beta * (ratio[0] - ratio[1]))


def test_dpo_against_a_reference_reset_at_each_step_stays_at_log_two(folder: Path):
    """TR-DPO with alpha = 1: the loss is log 2, its gradient -beta/2 (s_w - s_l)."""
    learner = make(folder, {"name": "hard_reset", "every": 1}, minibatches=2)
    for step in range(2):
        learner.update(batch(learner, step), step)
    scored = batch(learner, 2)
    ctx = learner._context(scored)
    loss = dpo(ctx, 0.4)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, ctx.logp)
    expected = torch.where(scored.seq_ids == 0, -0.2, torch.where(scored.seq_ids == 1, 0.2, 0.0))
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_dpo_against_a_frozen_reference_is_plain_dpo(folder: Path):
    learner = make(folder, "frozen")
    for step in range(2):
        learner.update(batch(learner, step), step)
    scored = batch(learner, 2)
    loss = dpo(learner._context(scored), 0.4)
    table = logp_of(learner.policy.module, scored) - logp_of(hf(folder, "initial"), scored)
    ratio = torch.zeros(12).index_add(0, scored.seq_ids, sampled(table, scored))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.4 * (ratio[0] - ratio[1]).item())), rel=1e-4)
    assert abs(loss.item() - math.log(2)) > 1e-3


def slope(logits: Tensor, rewards: Tensor, penalties: dict[str, tuple[float, Tensor]]) -> float:
    """The largest entry of the gradient of E[R] - sum_i beta_i KL(pi||ref_i) at a table of logits, by the regularizers themselves."""
    x, problem = logits.clone().requires_grad_(), Problem(len(rewards))
    loss = torch.zeros((), dtype=x.dtype)
    for beta, ref in penalties.values():
        ctx = problem.context(x, None, ref)
        part = build_part("regularizer", {"coefficient": beta}, NAME).penalty(ctx, NAME)
        loss = loss + beta * (ctx.batch.loss_weights * part.loss).sum()
    loss = loss - (ctx.batch.loss_weights * rewards[ctx.batch.tokens] * ctx.logp).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient.abs().max().item()


@pytest.mark.parametrize("speed", [0.1, 1.0, 5.0])
def test_mirror_descent_tends_to_the_fixed_references_optimum(speed: float):
    """pi_{k+1} prop pi_k^b ref^(1-b) exp(R/(lambda + tau)), lambda to the behaviour policy and tau to the frozen one: ref exp(R/tau)."""
    problem, tau = Problem(5), 0.5
    ref, policy, rewards = problem.random(0), problem.random(1), problem.random(2)[0]
    share = speed / (speed + tau)
    for _ in range(3):
        following = share * policy + (1 - share) * ref + rewards / (speed + tau)
        assert slope(following, rewards, {"near": (speed, policy), "far": (tau, ref)}) < 1e-14
        assert slope(policy, rewards, {"near": (speed, policy), "far": (tau, ref)}) > 1e-4
        policy = following
    for _ in range(400):
        policy = share * policy + (1 - share) * ref + rewards / (speed + tau)
    torch.testing.assert_close(torch.log_softmax(policy, -1), torch.log_softmax(ref + rewards / tau, -1), rtol=0, atol=1e-12)
    assert slope(policy, rewards, {"far": (tau, ref)}) < 1e-12


def test_resets_weaken_the_pull():
    """m problems solved exactly, the reference reset after each, are one problem with beta/m."""
    problem, beta, resets = Problem(5), 2.0, 4
    start, rewards = problem.random(0), problem.random(2)[0]
    policy = start
    for _ in range(resets):
        solved = policy + rewards / beta
        assert slope(solved, rewards, {"near": (beta, policy)}) < 1e-14
        policy = solved
    assert slope(policy, rewards, {"far": (beta / resets, start)}) < 1e-14
    assert slope(policy, rewards, {"far": (beta, start)}) > 1e-2
