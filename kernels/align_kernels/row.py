"""What one pass over a row of logits leaves behind, and how the shards of a vocabulary are put together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PolicyRows(NamedTuple):
    """The policy's statistics of whole rows, [T]."""

    lse: Tensor
    """log sum exp x, float64: a float32 would round it at the size of a logit."""
    logp: Tensor
    """log pi of the label, nats."""
    entropy: Tensor
    """H(pi), nats."""


class ReferenceRows(NamedTuple):
    """The reference's, [T]."""

    lse: Tensor
    logp: Tensor


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

    def policy(self) -> PolicyRows:
        """With the logarithm of s_p taken once."""
        log_s = torch.log(self.s_p.double())
        return PolicyRows(self.m_p + log_s, self._label(self.z_y, self.m_p, log_s), (log_s - self.e_p / self.s_p).to(self.m_p.dtype))

    def reference(self) -> ReferenceRows:
        m_q, s_q, u_y = self.reference_sums()
        log_s = torch.log(s_q.double())
        return ReferenceRows(m_q + log_s, self._label(u_y, m_q, log_s))

    def reference_sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """(m_q, s_q, u_y). Raises ValueError where no reference was read."""
        if self.m_q is None or self.s_q is None or self.u_y is None:
            raise ValueError("these statistics are of a policy without a reference")
        return self.m_q, self.s_q, self.u_y

    @property
    def lse_p(self) -> Tensor:
        """This and the next four alone: each takes the logarithm again."""
        return self.policy().lse

    @property
    def lse_q(self) -> Tensor:
        return self.reference().lse

    @property
    def logp(self) -> Tensor:
        return self.policy().logp

    @property
    def ref_logp(self) -> Tensor:
        return self.reference().logp

    @property
    def entropy(self) -> Tensor:
        return self.policy().entropy

    @staticmethod
    def _label(at: Tensor, m: Tensor, log_s: Tensor) -> Tensor:
        # Of the two large numbers the difference is taken first.
        return ((at - m) - log_s).to(m.dtype)


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
        m_q=None,
        s_q=None,
        u_y=None,
    )
    if one.m_q is None:
        return merged
    (top, total, label), (other_top, other_total, other_label) = one.reference_sums(), other.reference_sums()
    m_q = torch.maximum(top, other_top)
    s_q = total * torch.exp(_fall(top, m_q)) + other_total * torch.exp(_fall(other_top, m_q))
    return merged._replace(m_q=m_q, s_q=s_q, u_y=torch.maximum(label, other_label))


def _fall(m: Tensor, top: Tensor) -> Tensor:
    """m - top, float64; 0 in a shard where nothing is possible: its sums are 0, and -inf - -inf is no number."""
    return torch.where(torch.isneginf(m), 0.0, m.double() - top)
