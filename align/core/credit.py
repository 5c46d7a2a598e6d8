"""Credit: which tokens answer for a divergence. Three different objectives for answers of more than one token.

| credit | objective | gradient |
| --- | --- | --- |
| local | E sum_t D_t, the states taken as given | sum_t c_t s_t |
| summed | E sum_t D_t | sum_t s_t (c_t + sum_{t' > t} khat_t') |
| sequence | D_f(pi(y)||ref(y)) of whole answers | c(sum_t log u_t) sum_t s_t |

s_t is the score of token t, c = f'(u) - f'(1) there and khat the value. The own token answers with c, future
tokens with khat: a plain return-to-go of c is exact for reverse KL only, where the two have the same mean.

Where the sample is another policy's, `rho` weighs it by the ratio of what had to be drawn: the token (local), the answer up to
it (summed), the whole answer (sequence); 1.0 where nothing weighs. Everything is detached; T tokens are packed by sequence.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from align.core.closed_forms import within
from align.core.segments import prefix_sum, segment_sum, suffix_sum

Ratio = Float[Tensor, "T"] | float
"""`rho` of each token, 1.0 where nothing weighs."""


class Packing(NamedTuple):
    """Where each token sits: its sequence, and its index in it from 0."""

    seq_ids: Int64[Tensor, "T"]
    positions: Int64[Tensor, "T"]


class Credited(NamedTuple):
    value: Float[Tensor, "T"]
    """Their sum over a sequence estimates its divergence."""
    grad_weight: Float[Tensor, "T"]
    """Multiplies the score of each token."""


class Weight(NamedTuple):
    rho: Float[Tensor, "T"]
    """>= 0."""
    beyond: Bool[Tensor, "T"]
    """Where the cap cut it."""


def local(value: Float[Tensor, "T"], own: Float[Tensor, "T"], rho: Ratio, at: Packing) -> Credited:
    """Each token answers for itself, weighed by its own ratio."""
    return Credited(rho * value, rho * own)


def summed(value: Float[Tensor, "T"], own: Float[Tensor, "T"], rho: Ratio, at: Packing) -> Credited:
    """Each token also answers for the divergence of what follows; off-policy, prefixes weigh by their whole ratio."""
    value = rho * value
    return Credited(value, rho * own + suffix_sum(value, *at))


def sequence_sum(x: Float[Tensor, "T"], at: Packing) -> Float[Tensor, "T"]:
    """The sum over its sequence, at every token."""
    return segment_sum(x, at.seq_ids, int(at.seq_ids.max()) + 1)[at.seq_ids]


def sequence(value: Float[Tensor, "T"], own: Float[Tensor, "T"], rho: Ratio, at: Packing) -> Credited:
    """Every token answers for the whole answer. `value` and `own` are functions of `sequence_sum(log_u)`.

    The value stands at the first token alone, so that it is counted once.
    """
    return Credited(torch.where(at.positions == 0, rho * value, 0.0), rho * own)


def summed_exact(divergence: Float[Tensor, "T"], logp: Float[Tensor, "T"], rho: Ratio, at: Packing) -> Float[Tensor, "T"]:
    """The Rao-Blackwell form of `summed`: exact divergence of each state plus score times what follows. Differentiable.

    `grad E sum_t D_t = E sum_t [grad D_t + s_t sum_{t' > t} D_t']`; `rho` is the ratio of the tokens before, which make the state.
    """
    future = suffix_sum((rho * divergence).detach(), *at)
    return rho * divergence + future * (logp - logp.detach())


def log_weight(credit: str, log_ratio: Float[Tensor, "T"], at: Packing) -> Float[Tensor, "T"]:
    """The logarithm of the `rho` this credit needs, from the log-ratio of each token, nats."""
    if credit == "local":
        return log_ratio
    return prefix_sum(log_ratio, *at) if credit == "summed" else sequence_sum(log_ratio, at)


def bounded(log_weight: Float[Tensor, "T"], cap: float, masks: bool) -> Weight:
    """exp(log_weight), and beyond `cap` the cap itself or, with `masks`, 0 (truncated and masked importance sampling).

    Either is biased where it cuts, and has a bounded variance. Without a cap a weight stops at the largest number of its type.
    """
    beyond = log_weight > math.log(cap)
    rho = within(log_weight.clamp_max(math.log(cap)), above=1.0).exp()
    return Weight(torch.where(beyond, 0.0, rho) if masks else rho, beyond)
