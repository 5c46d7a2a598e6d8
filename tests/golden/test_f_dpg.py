"""f-DPG against the definition `D_f(pi||p) = sum_y p f(pi/p)` over every answer, p = ref exp(R/beta)/Z, in float64; and its state."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from helpers.built import algorithm
from helpers.definitions import DEFINITIONS, KEYS
from helpers.enumeration import NAME, Problem
from torch import Tensor

from align.algorithms.f_dpg import FDpg
from align.contexts import TokenContext
from align.references import OF_ALGORITHM
from align.types import EARLY

TREE = Problem(3, 2, end=0)
POLICY, OLD, REFERENCE = (TREE.random(seed) for seed in (1, 2, 3))
REWARDS = torch.tensor([1.0, -0.5, 0.3, 2.0, 0.0, 0.7, -1.2], dtype=torch.float64)
BETA = 0.7
UNNORMALISED = TREE.answer_logp(REFERENCE) + REWARDS / BETA
TARGET = torch.log_softmax(UNNORMALISED, -1)
MANY = 1e16
"""Answers behind a log Z that those of the batch do not change."""
KNOWN = {"log_sums": {"x": [torch.logsumexp(UNNORMALISED, -1).item() + math.log(MANY), MANY]}}
DIVERGENCES = sorted(set(DEFINITIONS) - {"renyi"})


def context(logits: Tensor, drawn_from: Tensor, state: dict | None = None) -> TokenContext:
    ctx = TREE.context(logits, None, REFERENCE, sampler=drawn_from)
    batch = replace(
        ctx.batch,
        rewards=REWARDS,
        advantages=REWARDS[ctx.batch.seq_ids],
        ref_logp={OF_ALGORITHM: ctx.batch.ref_logp[NAME]},
        prompt_ids=("x",) * len(REWARDS),
        algorithm_state=state or {},
    )
    return replace(ctx, batch=batch)


def expected(part: FDpg, ctx: TokenContext) -> Tensor:
    """The expected loss over the answers that were drawn."""
    loss, _ = part.loss(ctx, ctx.batch.advantages)
    return (ctx.batch.loss_weights * loss).sum()


def made(name: str, **keys) -> FDpg:
    built = algorithm("f_dpg", divergence={"name": name} | KEYS.get(name, ({},))[0], beta=BETA, **keys)
    assert isinstance(built, FDpg)
    return built


@pytest.mark.parametrize("name", DIVERGENCES)
def test_value_and_gradient_are_those_of_the_divergence_to_the_target(name: str):
    part, keys = made(name, log_z="prompt"), KEYS.get(name, ({},))[0]
    leaf = POLICY.clone().requires_grad_()
    u = (TREE.answer_logp(leaf) - TARGET).exp()
    wanted = (TARGET.exp() * DEFINITIONS[name](u, torch.log, **keys)).sum()
    (slope,) = torch.autograd.grad(wanted, leaf)
    for baseline in (0.0, 0.4):
        found = expected(part, context(leaf, OLD, KNOWN | {"baseline": baseline}))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(found, leaf)[0], slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "total_variation"])  # which has a kink there
def test_at_the_target_no_answer_has_a_gradient(name: str):
    five = Problem(5)
    target = torch.log_softmax(five.answer_logp(five.random(3)) + REWARDS[:5] / BETA, -1)
    leaf = target[None].clone().requires_grad_()
    ctx = five.context(leaf, None, five.random(3), sampler=five.random(4))
    normaliser = torch.logsumexp(five.answer_logp(five.random(3)) + REWARDS[:5] / BETA, -1).item() + math.log(MANY)
    ctx = replace(
        ctx,
        batch=replace(
            ctx.batch,
            ref_logp={OF_ALGORITHM: ctx.batch.ref_logp[NAME]},
            prompt_ids=("x",) * 5,
            algorithm_state={"log_sums": {"x": [normaliser, MANY]}},
        ),
    )
    loss, _ = made(name, log_z="prompt").loss(ctx, REWARDS[:5])
    slopes = torch.stack([torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in loss])
    assert slopes.abs().max() < 1e-12 and loss.abs().max() < 1e-12


def test_the_normaliser_of_a_group_is_the_mean_of_its_answers():
    ctx = context(POLICY, OLD)
    ctx = replace(ctx, batch=replace(ctx.batch, group_ids=torch.tensor([4, 4, 4, 7, 7, 9, 9])))
    _, found = made("reverse_kl").loss(ctx, ctx.batch.advantages)
    weights = (UNNORMALISED - TREE.answer_logp(OLD)).exp()
    z = torch.cat([part.mean().expand(len(part)) for part in weights.split([3, 2, 2])])
    torch.testing.assert_close(found["target/log_ratio"], TREE.answer_logp(POLICY) - UNNORMALISED + z.log(), rtol=1e-12, atol=1e-12)


def test_the_normaliser_of_a_prompt_is_the_mean_of_all_its_answers():
    part = made("reverse_kl", log_z="prompt", baseline_window=3)
    weights = (UNNORMALISED - TREE.answer_logp(OLD)).exp()
    state = part.initial_state()
    for _ in range(2):
        ctx = context(POLICY, OLD)
        batch = replace(ctx.batch, algorithm_state=part.state_for(state, ctx.batch))
        state = json.loads(json.dumps(part.update_state(state, batch.only(EARLY, part))))
    log_sum, count = state["log_sums"]["x"]
    assert count == 2 * len(REWARDS) and log_sum == pytest.approx((2 * weights.sum()).log().item())
    last = (TREE.answer_logp(OLD) - UNNORMALISED + weights.mean().log())[-3:]
    assert state["recent"] == pytest.approx(last.tolist()) and state["baseline"] == pytest.approx(last.mean().item())


def test_a_weight_beyond_the_cap_is_cut():
    _, free = made("reverse_kl").loss(context(POLICY, OLD), REWARDS[context(POLICY, OLD).batch.seq_ids])
    loss, found = made("reverse_kl", ratio_cap=1.1).loss(context(POLICY, OLD), REWARDS[context(POLICY, OLD).batch.seq_ids])
    ratio = (TREE.answer_logp(POLICY) - TREE.answer_logp(OLD)).exp()
    assert "target/capped" not in free and found["target/capped"].tolist() == (ratio > 1.1).float().tolist()
    value = ratio.clamp_max(1.1) * (torch.expm1(-found["target/log_ratio"]) + found["target/log_ratio"])
    torch.testing.assert_close(loss[context(POLICY, OLD).batch.positions == 0], value)
