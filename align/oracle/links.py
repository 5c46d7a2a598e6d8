"""Tests whether a link is that of its divergence: at the optimal policy for a reward, preferences by that reward give no gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from align.divergences import Divergence
from align.oracle.enumeration import ONE_TOKEN, TREE, Problem, context, setting
from align.oracle.measure import NAME, Measurement
from align.regularizers import Regularizer


def measure_links(regularizer: Regularizer, divergence: Divergence) -> tuple[Measurement, ...]:
    """Measurements for a single token and a tree of answers. `error`: the population gradient there, relative to random labels.

    Args: divergence: the divergence that the link claims.
    """
    return tuple(_measure(regularizer, divergence, problem) for problem in (ONE_TOKEN, TREE))


def _measure(regularizer: Regularizer, divergence: Divergence, problem: Problem) -> Measurement:
    """The policy is the optimum of E_pi[R] - D_f(pi||ref) for R = f'(u) + constant (KKT); f' comes from f by autograd only."""
    at = setting(problem)
    log_u = problem.answer_logp(at.policy) - problem.answer_logp(at.reference)
    reward = _slope(divergence, log_u)
    better = torch.sigmoid(reward[:, None] - reward[None, :])
    size = _gradient(regularizer, divergence, problem, torch.full_like(better, 0.5)).norm()
    left = _gradient(regularizer, divergence, problem, better).norm()
    return Measurement(
        problem=problem.name,
        stale=False,
        exact=math.nan,
        value=math.nan,
        value_bias=math.nan,
        value_spread=math.nan,
        error=(left / size).item(),
        cosine=math.nan,
        variance=math.nan,
    )


def _slope(divergence: Divergence, log_u: Tensor) -> Tensor:
    x = log_u.clone().requires_grad_()
    (slope,) = torch.autograd.grad(divergence.f(x).sum(), x)
    return slope * torch.exp(-log_u)


def _gradient(regularizer: Regularizer, divergence: Divergence, problem: Problem, better: Tensor) -> Tensor:
    """Gradient of the mean DPO loss over all pairs of answers at beta 1; `better[i, j]` is the probability that i is preferred to j."""
    ctx, leaf = context(setting(problem), NAME, divergence if regularizer.full_vocabulary else None)
    scores = regularizer.penalty(ctx, NAME).link
    assert scores is not None  # it is placed as a link
    loss = -(better * logsigmoid(scores[:, None] - scores[None, :])).mean()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient
