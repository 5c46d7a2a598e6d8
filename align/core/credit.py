"""Credit: which tokens answer for a divergence. Three different objectives for answers of more than one token.

| credit | objective | gradient |
| --- | --- | --- |
| local | E sum_t D_t, the states taken as given | sum_t c_t s_t |
| summed | E sum_t D_t | sum_t s_t (c_t + sum_{t' > t} khat_t') |
| sequence | D_f(pi(y)||ref(y)) of whole answers | c(sum_t log u_t) sum_t s_t |

s_t is the score of token t, c = f'(u) - f'(1) there and khat the value. The own token answers with c, future
tokens with khat: a plain return-to-go of c is exact for reverse KL only, where the two have the same mean.

Where the sample is another policy's, `rho` [T] weighs it by the ratio of what had to be drawn: the token (local), the answer up to
it (summed), the whole answer (sequence); 1.0 where nothing weighs. Everything is detached, [T] packed by sequence.
"""

from __future__ import annotations

import math
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
    grad_weight: Tensor
    """[T]: multiplies the score of each token."""


class Weight(NamedTuple):
    rho: Tensor
    """[T], >= 0."""
    beyond: Tensor
    """bool [T]: where the cap cut it."""


def local(value: Tensor, own: Tensor, rho: Tensor | float, at: Packing) -> Credited:
    """Each token answers for itself, weighed by its own ratio."""
    return Credited(rho * value, rho * own)


def summed(value: Tensor, own: Tensor, rho: Tensor | float, at: Packing) -> Credited:
    """Each token also answers for the divergence of what follows; off-policy, prefixes weigh by their whole ratio."""
    value = rho * value
    return Credited(value, rho * own + suffix_sum(value, *at))


def sequence_log_ratio(x: Tensor, at: Packing) -> Tensor:
    """The sum over its sequence, at every token: [T] -> [T]."""
    return segment_sum(x, at.seq_ids, int(at.seq_ids.max()) + 1)[at.seq_ids]


def sequence(value: Tensor, own: Tensor, rho: Tensor | float, at: Packing) -> Credited:
    """Every token answers for the whole answer. `value` and `own` are functions of `sequence_log_ratio(log_u)`.

    The value stands at the first token alone, so that it is counted once.
    """
    return Credited(torch.where(at.positions == 0, rho * value, 0.0), rho * own)


def summed_exact(divergence: Tensor, logp: Tensor, rho: Tensor | float, at: Packing) -> Tensor:
    """The Rao-Blackwell form of `summed`: exact divergence of each state plus score times what follows. [T] -> [T], differentiable.

    `grad E sum_t D_t = E sum_t [grad D_t + s_t sum_{t' > t} D_t']`; `rho` is the ratio of the tokens before, which make the state.
    """
    future = suffix_sum((rho * divergence).detach(), *at)
    return rho * divergence + future * (logp - logp.detach())


def log_weight(credit: str, log_ratio: Tensor, at: Packing) -> Tensor:
    """The logarithm of the `rho` this credit needs, from the log-ratio of each token: [T] -> [T], nats."""
    if credit == "local":
        return log_ratio
    return prefix_sum(log_ratio, *at) if credit == "summed" else sequence_log_ratio(log_ratio, at)


def bounded(log_weight: Tensor, cap: float, masks: bool) -> Weight:
    """exp(log_weight), and beyond `cap` the cap itself or, with `masks`, 0 (truncated and masked importance sampling).

    Either is biased where it cuts, and has a bounded variance.
    """
    beyond = log_weight > math.log(cap)
    rho = log_weight.clamp_max(math.log(cap)).exp()
    return Weight(torch.where(beyond, 0.0, rho) if masks else rho, beyond)
