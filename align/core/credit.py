"""Credit: which tokens answer for a divergence. Three different objectives for answers of more than one token.

| credit | objective | gradient |
| --- | --- | --- |
| local | E sum_t D_t, the states taken as given | sum_t c_t s_t |
| summed | E sum_t D_t | sum_t s_t (c_t + sum_{t' > t} khat_t') |
| sequence | D_f(pi(y)||ref(y)) of whole answers | c(sum_t log u_t) sum_t s_t |

s_t is the score of token t, c its derivative coefficient, khat its value. The own token answers with the derivative, future
tokens with the value: a plain return-to-go of c is exact for reverse KL only, where the two have the same mean.
Everything is detached, [T] packed by sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from align.core.segments import prefix_sum, segment_sum, suffix_sum


class Packing(NamedTuple):
    """Where each of T tokens sits: sequence (int64 [T]) and index in it (int64 [T])."""

    seq_ids: Tensor
    positions: Tensor


class Credited(NamedTuple):
    value: Tensor
    """[T]: their sum over a sequence estimates its divergence."""
    coefficient: Tensor
    """[T]: multiplies the score of each token."""


def local(value: Tensor, own: Tensor, log_rho: Tensor | None, at: Packing) -> Credited:
    """Each token answers for itself, weighed by its own ratio (`log_rho` None: no importance weights)."""
    rho = 1.0 if log_rho is None else log_rho.exp()
    return Credited(rho * value, rho * own)


def summed(value: Tensor, own: Tensor, log_rho: Tensor | None, at: Packing) -> Credited:
    """Each token also answers for the divergence of what follows; off-policy, prefixes weigh by their whole ratio."""
    rho = 1.0 if log_rho is None else prefix_sum(log_rho, *at).exp()
    value = rho * value
    return Credited(value, rho * own + suffix_sum(value, *at))


def sequence_log_ratio(x: Tensor, at: Packing) -> Tensor:
    """The sum over its sequence, at every token: [T] -> [T]."""
    return segment_sum(x, at.seq_ids, int(at.seq_ids.max()) + 1)[at.seq_ids]


def sequence(value: Tensor, own: Tensor, log_rho: Tensor | None, at: Packing) -> Credited:
    """Every token answers for the whole answer. `value` and `own` are functions of `sequence_log_ratio(log_u)`.

    The value stands at the first token alone, so that it is counted once.
    """
    rho = 1.0 if log_rho is None else sequence_log_ratio(log_rho, at).exp()
    return Credited(torch.where(at.positions == 0, rho * value, 0.0), rho * own)


def summed_exact(divergence: Tensor, logp: Tensor, log_rho: Tensor, at: Packing) -> Tensor:
    """The Rao-Blackwell form of `summed`: exact divergence of each state plus score times what follows. [T] -> [T], differentiable.

    `grad E sum_t D_t = E sum_t [grad D_t + s_t sum_{t' > t} D_t']`; the state of token t is weighed by the ratio of the tokens before it.
    """
    rho = (prefix_sum(log_rho, *at) - log_rho).exp()
    future = suffix_sum((rho * divergence).detach(), *at)
    return rho * divergence + future * (logp - logp.detach())
