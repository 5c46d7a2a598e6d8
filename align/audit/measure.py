"""Measures a regularizer's `penalty` on one enumerable problem: value, gradient and their variance, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from align.core.segments import segment_sum
from align.divergences import Divergence
from align.oracle.enumeration import ONE_TOKEN, TREE, UPDATE, Policies, Problem, context, gradient, objective, setting
from align.regularizers import Regularizer
from align.types import TokenContext

NAME = "audited"
"""The regularizer's name in the batch."""


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


def measure(regularizer: Regularizer, problem: Problem, drift: float = 0.0) -> Measurement:
    """One regularizer on one problem. Its weighting and coefficient are set to 1, because they only scale it.

    Args: drift: how far the policy has moved since the answers were drawn; see `enumeration.setting`.
    """
    at = setting(problem, drift)
    divergence = claimed(regularizer)
    ctx, leaf = context(at, NAME, divergence if regularizer.full_vocabulary else None, regularizer.outcomes)
    penalty = regularizer.penalty(ctx, NAME)
    # A penalty in the reward acts through the unclipped surrogate -rho (A - penalty), here with A = 0.
    loss = penalty.loss if penalty.reward is None else torch.exp(ctx.log_rho) * penalty.reward
    assert loss is not None  # `measure_links` measures links
    probability, value = problem.answer_logp(at.behaviour).exp(), _by_answer(ctx, problem, penalty.value)
    gradients = _gradients(ctx, problem, loss, leaf)
    mean_value, mean = (probability * value).sum(), probability @ gradients
    spread = (probability * (value - mean_value) ** 2).sum().sqrt() / mean_value
    covariance = probability @ ((gradients - mean) ** 2).sum(-1)
    exact_value, exact = _exact(regularizer, divergence, at)
    size = exact.norm()
    cosine = (mean @ exact / (mean.norm() * size)).item() if mean.norm() > 1e-12 * size else math.nan
    return Measurement(
        problem=problem.name,
        stale=drift > 0,
        exact=exact_value.item(),
        value=mean_value.item(),
        value_bias=(mean_value / exact_value - 1).item(),
        value_spread=spread.item(),
        error=((mean - exact).norm() / size).item(),
        cosine=cosine,
        variance=(covariance / size**2).item(),
    )


def measure_all(regularizer: Regularizer) -> tuple[Measurement, ...]:
    """Measurements for a single token and a tree of answers, each on-policy and after one stale update."""
    return tuple(measure(regularizer, problem, drift) for problem in (ONE_TOKEN, TREE) for drift in (0.0, UPDATE))


def claimed(regularizer: Regularizer) -> Divergence | None:
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


def _gradients(ctx: TokenContext, problem: Problem, loss: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of each answer's loss, [S, P * V]."""
    losses = _by_answer(ctx, problem, loss)
    return torch.stack([torch.autograd.grad(one, leaf, retain_graph=True)[0].flatten() for one in losses])
