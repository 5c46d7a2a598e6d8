"""Measures a regularizer's `penalty` on one enumerable problem: value, gradient and their variance, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from align.contexts import TokenContext
from align.core.credit import Packing
from align.core.segments import segment_sum, suffix_sum
from align.divergences import Divergence, StateFunctional
from align.oracle.enumeration import ONE_TOKEN, TREE, UPDATE, Policies, Problem, context_by_token, gradient, objective, setting
from align.regularizers import Penalty, Regularizer

NAME = "audited"
"""The regularizer's name in the batch."""
ROUNDING = 1e-13
"""Relative to the terms of a sum in float64."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Exact expectations over every answer; `error`, `cosine`, `variance` and `value_bias` are relative to the claimed divergence."""

    problem: str
    stale: bool
    """The answers were drawn one update ago."""
    exact: float
    """The divergence itself, in nats per answer; NaN if none is claimed, as are all comparisons with it."""
    value: float
    """The mean of the estimate, in nats per answer."""
    value_bias: float
    """`value/exact - 1`."""
    value_spread: float
    """The estimate's standard deviation over its mean."""
    error: float
    """|g - g_exact|/|g_exact|, g the expected gradient."""
    cosine: float
    """Cosine of the angle between g and g_exact; NaN if g is zero."""
    variance: float
    """Trace of the covariance of one answer's gradient, over |g_exact|^2."""


def measure(
    regularizer: Regularizer, problem: Problem, drift: float = 0.0, algorithm: Any = None, *, cut: bool = True, variance: bool = True
) -> Measurement:
    """One regularizer on one problem. Its weighting and coefficient are set to 1, because they only scale it.

    Args: drift: how far the policy has moved since the answers were drawn, see `enumeration.setting`; algorithm: its surrogate turns a
    penalty in the reward into a loss, and where it has a critic the penalty is that of the token rewards (None: an unclipped ratio of the
    token); cut: whether the surrogate's bounds cut; variance: False leaves it NaN, which is faster.
    """
    at = setting(problem, drift)
    divergence = claimed_divergence(regularizer)
    ctx, leaf, rows = context_by_token(at, NAME, divergence if regularizer.full_vocabulary else None, regularizer.outcomes)
    if algorithm is not None:
        ctx = replace(ctx, surrogate_log_ratio=algorithm.effective_log_ratio(ctx))
    penalty = regularizer.penalty(ctx, NAME)
    loss = penalty.loss if penalty.reward is None else _through_surrogate(regularizer, penalty, ctx, algorithm, cut)
    assert loss is not None  # `measure_links` measures links
    probability, value = problem.answer_logp(at.behaviour).exp(), _by_answer(ctx, problem, penalty.value)
    mean_value = (probability * value).sum()
    answers = _by_answer(ctx, problem, loss)
    mean = torch.autograd.grad((probability * answers).sum(), leaf, retain_graph=variance)[0].flatten()
    covariance = probability @ ((_gradients(problem, answers, rows) - mean) ** 2).sum(-1) if variance else torch.tensor(math.nan)
    spread = (probability * (value - mean_value) ** 2).sum().sqrt() / mean_value
    exact_value, exact = _exact(regularizer, divergence, at)
    size, noise = exact.norm(), _noise(divergence, at)
    cosine = (mean @ exact / (mean.norm() * size)).item() if mean.norm() > 1e-12 * size else math.nan
    return Measurement(
        problem=problem.name,
        stale=drift > 0,
        exact=exact_value.item(),
        value=mean_value.item(),
        value_bias=_relative(mean_value - exact_value, exact_value, noise),
        value_spread=spread.item(),
        error=_relative((mean - exact).norm(), size, noise),
        cosine=cosine,
        variance=(covariance / size**2).item(),
    )


def measure_all(
    regularizer: Regularizer, algorithm: Any = None, *, cut: bool = True, variance: bool = True, stale: bool = True
) -> tuple[Measurement, ...]:
    """Measurements for a single token and a tree of answers, each on-policy and, with `stale`, after one stale update."""
    return tuple(
        measure(regularizer, problem, drift, algorithm, cut=cut, variance=variance)
        for problem in (ONE_TOKEN, TREE)
        for drift in ((0.0, UPDATE) if stale else (0.0,))
    )


def _relative(difference: Tensor, size: Tensor, noise: float) -> float:
    """difference/|size|; what is within rounding is 0, so that 0 against 0 is exact."""
    return 0.0 if difference.abs() <= noise else (difference / size.abs()).item()


def _noise(divergence: Divergence | None, at: Policies) -> float:
    """Rounding of a sum of `f` and of f' over the states, in units of f: it scales with f."""
    if divergence is None:
        return 0.0
    policy, reference = torch.log_softmax(at.policy, -1), torch.log_softmax(at.reference, -1)
    if isinstance(divergence, StateFunctional):
        return ROUNDING * divergence.of_state(policy, reference).abs().sum().item()
    log_u = policy - reference
    return ROUNDING * (reference.exp() * divergence.f(log_u).abs() + policy.exp() * divergence.by_f.f_prime(log_u).abs()).sum().item()


def _through_surrogate(regularizer: Regularizer, penalty: Penalty, ctx: TokenContext, algorithm: Any, cut: bool) -> Tensor:
    """The loss [T] that a penalty in the reward becomes, with advantages of 0 beside it."""
    assert penalty.reward is not None  # `measure` asks for no other
    reward, at = penalty.reward, Packing(ctx.batch.seq_ids, ctx.batch.positions)
    if algorithm is not None and algorithm.critic is not None:
        charge = regularizer.reward_penalty(replace(ctx.batch, old_logp=ctx.old_logp), NAME)
        if charge is not None:
            reward = charge.direct + charge.discounted + suffix_sum(charge.discounted, *at)
    if algorithm is None or algorithm.surrogate is None:
        return torch.exp(ctx.log_rho) * reward
    loss, was_cut = algorithm.surrogate.loss(ctx.log_rho, -reward, at)
    if cut or ctx.surrogate_log_ratio is None:
        return loss
    return torch.where(was_cut, torch.exp(ctx.surrogate_log_ratio) * reward * (1 + ctx.logp - ctx.logp.detach()), loss)


def claimed_divergence(regularizer: Regularizer) -> Divergence | None:
    """The divergence that a regularizer names, or None."""
    found = getattr(regularizer, "divergence", None)
    return found if isinstance(found, Divergence) else None


def _exact(regularizer: Regularizer, divergence: Divergence | None, at: Policies) -> tuple[Tensor, Tensor]:
    if divergence is None:
        return torch.tensor(math.nan), torch.full_like(at.policy, math.nan).flatten()
    credit = getattr(regularizer, "credit", "local")

    def claim(logits: Tensor) -> Tensor:
        return objective(divergence, credit, at, logits, regularizer.outcomes)

    return claim(at.policy), gradient(claim, at.policy).flatten()


def _by_answer(ctx: TokenContext, problem: Problem, x: Tensor) -> Tensor:
    """The sum of x [T] over each answer, [S]."""
    return segment_sum(x.double(), ctx.batch.seq_ids, len(problem.answers))


def _gradients(problem: Problem, losses: Tensor, rows: Tensor) -> Tensor:
    """The gradient of each answer's loss [S], [S, P * V]: an answer's tokens alone matter to its loss, and each has another prefix."""
    answer, _, prefix, _ = problem.steps
    found = torch.zeros(len(problem.answers), len(problem.prefixes), problem.vocabulary, dtype=rows.dtype)
    found[answer, prefix] = torch.autograd.grad(losses.sum(), rows)[0]
    return found.flatten(1)
