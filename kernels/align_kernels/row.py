"""What one pass over a row of logits leaves behind, and how the shards of a vocabulary are put together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RowStats(NamedTuple):
    """Un-normalised statistics of [T] rows over one shard of the vocabulary; x are the policy's logits, y the reference's, both scaled.

    Float32 (float64 for float64 logits), the sums s in float64: near the reference a divergence of first order has the error of
    log s_p - log s_q over its own size. The sums are centred on the shard's own maximum, so an offset of the whole head costs no digits.
    Without a reference the last three are None.
    """

    m_p: Tensor
    """max x, [T]."""
    s_p: Tensor
    """sum exp(x - m_p), [T]."""
    e_p: Tensor
    """sum exp(x - m_p) (x - m_p), [T]."""
    z_y: Tensor
    """x at the label, [T]; -inf where the label lies outside the shard."""
    m_q: Tensor | None
    s_q: Tensor | None
    u_y: Tensor | None

    @property
    def lse_p(self) -> Tensor:
        """log sum exp x, [T], float64: a float32 would round it at the size of a logit."""
        return self.m_p.double() + torch.log(self.s_p.double())

    @property
    def lse_q(self) -> Tensor:
        return self.m_q.double() + torch.log(self.s_q.double())

    @property
    def logp(self) -> Tensor:
        """log pi of the label, nats: of the two large numbers the difference is taken first."""
        return ((self.z_y - self.m_p) - torch.log(self.s_p)).to(self.m_p.dtype)

    @property
    def ref_logp(self) -> Tensor:
        return ((self.u_y - self.m_q) - torch.log(self.s_q)).to(self.m_q.dtype)

    @property
    def entropy(self) -> Tensor:
        """H(pi), nats."""
        return (torch.log(self.s_p) - self.e_p / self.s_p).to(self.m_p.dtype)


def merge(one: RowStats, other: RowStats) -> RowStats:
    """The statistics of two disjoint shards of a vocabulary as those of one."""
    m_p = torch.maximum(one.m_p, other.m_p)
    down, other_down = _fall(one.m_p, m_p), _fall(other.m_p, m_p)
    rescaled = torch.exp(down), torch.exp(other_down)
    merged = RowStats(
        m_p=m_p,
        s_p=one.s_p * rescaled[0] + other.s_p * rescaled[1],
        e_p=(one.e_p + one.s_p * down) * rescaled[0] + (other.e_p + other.s_p * other_down) * rescaled[1],
        z_y=torch.maximum(one.z_y, other.z_y),
        m_q=None, s_q=None, u_y=None,
    )
    if one.m_q is None:
        return merged
    m_q = torch.maximum(one.m_q, other.m_q)
    s_q = one.s_q * torch.exp(_fall(one.m_q, m_q)) + other.s_q * torch.exp(_fall(other.m_q, m_q))
    return merged._replace(m_q=m_q, s_q=s_q, u_y=torch.maximum(one.u_y, other.u_y))


def _fall(m: Tensor, top: Tensor) -> Tensor:
    """m - top, float64; 0 in a shard where nothing is possible: its sums are 0, and -inf - -inf is no number."""
    return torch.where(torch.isneginf(m), 0.0, m.double() - top)
