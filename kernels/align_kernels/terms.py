"""What one outcome adds to a divergence and to its gradient, in torch: the source of truth of every backend."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor


class OfRows(ABC):
    """A divergence that is no sum of terms of one outcome each, so that it has no kernel: torch on whole rows, and autograd."""

    @abstractmethod
    def of_state(self, logp: Tensor, ref_logp: Tensor) -> Tensor:
        """log-probs [..., V] of both sides, nats -> [...], differentiable in `logp`. A row does not depend on the others."""


class Outcomes(NamedTuple):
    """Log-probs split at u = 1, so that no factor overflows where its product does not."""

    below: Tensor
    """bool: u < 1."""
    low: Tensor
    """log u where below, else 0."""
    high: Tensor
    pi: Tensor
    ref: Tensor


def outcomes(logp: Tensor, ref_logp: Tensor, log_u: Tensor) -> Outcomes:
    """Of log-probs in nats, elementwise.

    `log_u` is given beside them because its accurate form is not their difference: (z - ref_z) - (lse_p - lse_q) of logits keeps digits
    that the difference of two log-probs has lost. An outcome impossible under both counts as one on which both agree.
    """
    finfo = torch.finfo(log_u.dtype)
    # -inf - -inf would be NaN, and so would 0 * -inf inside f.
    log_u = log_u.masked_fill(torch.maximum(logp, ref_logp) == -torch.inf, 0.0).clamp(finfo.min, finfo.max)
    return Outcomes(log_u < 0, log_u.clamp_max(0), log_u.clamp_min(0), logp.exp(), ref_logp.exp())


def values(f: Any, at: Outcomes) -> Tensor:
    """`ref k_f(u)`, which is `pi khat(u)` where u > 1. One that a single side allows counts with the limit of f, or about a quarter of
    the type's largest number where f has none."""
    # A heavy tail overflows on outcomes whose own probability underflows: inf * 0.
    most = torch.finfo(at.low.dtype).max / 4
    return torch.where(at.below, at.ref * f.bregman(at.low).clamp(-most, most), at.pi * f.khat(at.high).clamp(-most, most))


def pulls(f: Any, at: Outcomes) -> Tensor:
    """`pi c(u)`, which is `ref u c` where u < 1: forward KL pulls up by ref an outcome whose pi underflows."""
    finfo = torch.finfo(at.low.dtype)
    # u c nears its limit at u = 0 long before u underflows and c overflows.
    low, most = at.low.clamp_min(-0.9 * math.log(finfo.max)), finfo.max / 4
    return torch.where(
        at.below, at.ref * low.exp() * f.grad_weight(low).clamp(-most, most), at.pi * f.grad_weight(at.high).clamp(-most, most)
    )


def outcome_terms(fn: Any, logp: Tensor, ref_logp: Tensor, log_u: Tensor) -> tuple[Tensor, Tensor]:
    """(value, pull) of each outcome for whatever stands for a divergence: its traced form, or an object with `bregman` k_f,
    `khat` = k_f/u and `grad_weight` c = f'(u) - f'(1) as functions of log u."""
    if not hasattr(fn, "bregman"):
        return fn.terms(logp, ref_logp, log_u, logp.exp(), ref_logp.exp(), *fn.params)
    at = outcomes(logp, ref_logp, log_u)
    return values(fn, at), pulls(fn, at)


def outcome_pulls(fn: Any, logp: Tensor, ref_logp: Tensor, log_u: Tensor) -> Tensor:
    """The second of `outcome_terms` alone."""
    if not hasattr(fn, "bregman"):
        return outcome_terms(fn, logp, ref_logp, log_u)[1]
    return pulls(fn, outcomes(logp, ref_logp, log_u))


def transformed(f: Any, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The divergence of states from `mean = E_ref[f(u)]`, and its slope in the mean: [...] -> ([...], [...]). Identity by default."""
    transform = getattr(f, "transform", None)
    return (mean, torch.ones_like(mean)) if transform is None else transform(mean)


def exact_divergence(divergence: Any, logp: Tensor, ref_logp: Tensor) -> Tensor:
    """D_f(pi||ref) over the last axis: log-probs [..., K] in nats -> [...], differentiable in `logp`.

    The gradient is `sum pi c grad log pi` (grad D_f = E_pi[f'(u) grad log pi]), so f itself is never differentiated. Both go through
    the divergence's `transform`. One of whole rows is differentiated by autograd.
    """
    if isinstance(divergence, OfRows):
        return divergence.of_state(logp, ref_logp)
    with torch.no_grad():
        terms, pull = outcome_terms(divergence, logp, ref_logp, logp - ref_logp)
        value, slope = transformed(divergence, terms.sum(-1))
    score = torch.where(torch.isneginf(logp), 0.0, logp)
    return value + slope * (pull * (score - score.detach())).sum(-1)


def sampled(divergence: Any, logp: Tensor, ref_logp: Tensor) -> Tensor:
    """The divergence estimated at the sampled token alone: [T] -> [T], differentiable in `logp`.

    Value khat(u) (for reverse KL Schulman's k3), gradient c(u) grad log pi: unbiased for both on tokens the policy drew. Any other
    estimator (k1, k2, a published loss) is likewise a function of the two [T] outputs and needs no kernel.
    """
    log_u = (logp - ref_logp).detach()
    return divergence.khat(log_u) + divergence.grad_weight(log_u) * (logp - logp.detach())
