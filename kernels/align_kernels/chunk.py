"""What is done with the logits of one chunk of tokens while they exist: statistics forward, the gradient wrt the logits backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from align_kernels.backends import Rows
from align_kernels.head import Compared, Head
from align_kernels.outcomes import log_probs, outcome_grad, outcome_sum
from align_kernels.parallel import joined, summed
from align_kernels.terms import transformed


class Reference(NamedTuple):
    """What one comparison leaves, each [T]. `div` and what its gradient needs are None where no divergence is asked."""

    lse: Tensor
    logp: Tensor
    div: Tensor | None
    S: Tensor | None
    """sum pi c; None where outcomes are merged."""
    slope: Tensor | None


class Statistics(NamedTuple):
    """What the tokens of a chunk leave behind: O(T)."""

    lse: Tensor
    logp: Tensor
    entropy: Tensor
    references: tuple[Reference, ...]


class Weights(NamedTuple):
    """Upstream gradients [T] of log-prob, entropy and each divergence; None where nothing flows back."""

    logp: Tensor | None
    entropy: Tensor | None
    div: Sequence[Tensor | None]

    def of(self, chosen: slice) -> Weights:
        """Those of some of the tokens."""
        return Weights(*(None if w is None else w[chosen] for w in self[:2]), [None if w is None else w[chosen] for w in self.div])


@dataclass(frozen=True)
class Job:
    """Everything about a call that is not a tensor of its tokens."""

    head: Head
    compared: tuple[Compared, ...]
    """Their divergences as this backend's row functions take them."""
    temperature: float
    rows: Rows
    group: Any
    first: int
    """Global id of the head's first token."""
    merged: tuple[bool, ...]
    """Of each comparison: its outcomes are no single tokens, so that it needs whole rows."""

    def __post_init__(self) -> None:
        if any(self.merged) and self.group is not None:
            raise ValueError("merged outcomes (top-k) need the whole vocabulary on one rank: leave out group, or compare every token")

    def statistics(self, z: Tensor, us: Sequence[Tensor], labels: Tensor) -> Statistics:
        """Of logits z [T, V] and the references' us; labels are global ids."""
        sz, softcap = self.head.of_rows(self.temperature)
        if not us:
            own = joined(self.rows.row_stats(z, None, labels, sz=sz, first=self.first, softcap=softcap), self.group)
            return Statistics(*own.policy(), ())
        references = []
        for i, (u, compared) in enumerate(zip(us, self.compared, strict=True)):
            su, ref_softcap = compared.head.of_rows(self.temperature)
            sums = None
            if i == 0:
                both = {"sz": sz, "su": su, "first": self.first, "softcap": softcap, "ref_softcap": ref_softcap}
                if self._takes_one_pass(i):
                    stats, *sums = self.rows.one_pass(z, u, labels, fn=compared.divergence, **both)
                else:
                    stats = joined(self.rows.row_stats(z, u, labels, **both), self.group)
                own, (lse_q, ref_logp) = stats.policy(), stats.reference()
            else:
                alone = joined(self.rows.row_stats(u, None, labels, sz=su, first=self.first, softcap=ref_softcap), self.group)
                lse_q, ref_logp, _ = alone.policy()
            references.append(self._reference(i, z, u, own.lse, lse_q, ref_logp, sums))
        return Statistics(*own, tuple(references))

    def _takes_one_pass(self, i: int) -> bool:
        divergence = self.compared[i].divergence
        if self.rows.one_pass is None or divergence is None:
            return False
        # A shard has a centre of its own, and merged outcomes are no elements.
        return divergence.power is not None and not self.merged[i] and self.group is None

    def _reference(
        self, i: int, z: Tensor, u: Tensor, lse_p: Tensor, lse_q: Tensor, ref_logp: Tensor, sums: Sequence[Tensor] | None
    ) -> Reference:
        """`sums`: what row_sum would give, where it is known."""
        compared = self.compared[i]
        if compared.divergence is None:
            return Reference(lse_q, ref_logp, None, None, None)
        policy, reference = self.head.of_rows(self.temperature), compared.head.of_rows(self.temperature)
        if self.merged[i]:
            div = outcome_sum(compared, log_probs(z, lse_p, *policy), log_probs(u, lse_q, *reference))
            return Reference(lse_q, ref_logp, div, None, None)
        if sums is None:
            sums = summed(
                self.rows.row_sum(
                    z, u, lse_p, lse_q, sz=policy[0], su=reference[0], fn=compared.divergence, softcap=policy[1], ref_softcap=reference[1]
                ),
                self.group,
            )
        div, slope = transformed(compared.divergence, sums[0])
        return Reference(lse_q, ref_logp, div, sums[1], slope)

    def gradient(
        self, z: Tensor, us: Sequence[Tensor], labels: Tensor, at: Statistics, w: Weights, *, first: int, dtype: torch.dtype
    ) -> Tensor:
        """d(sum w * statistics)/dz for the columns z [T, V'] whose first has the global id `first`, in `dtype`."""
        sz, softcap = self.head.of_rows(self.temperature)
        wanted = [i for i, weight in enumerate(w.div) if weight is not None]
        fused = [i for i in wanted if at.references[i].S is not None]
        # More than one contribution is summed in float32 and rounded once.
        several = len(fused) > 1 or len(fused) < len(wanted)
        out = torch.empty_like(z, dtype=torch.promote_types(dtype, torch.float32) if several else dtype)
        common = {"sz": sz, "softcap": softcap, "first": first, "out": out}
        sampled = (at.entropy, w.logp, w.entropy)
        for number, i in enumerate(fused or [None]):
            entropy, w_logp, w_entropy = sampled if number == 0 else (None, None, None)
            if i is None:
                self.rows.row_grad(z, None, at.lse, None, labels, entropy, None, w_logp, w_entropy, None, **common)
                continue
            reference, compared = at.references[i], self.compared[i]
            su, ref_softcap = compared.head.of_rows(self.temperature)
            self.rows.row_grad(
                z,
                us[i],
                at.lse,
                reference.lse,
                labels,
                entropy,
                reference.S,
                w_logp,
                w_entropy,
                w.div[i] * reference.slope,
                su=su,
                fn=compared.divergence,
                ref_softcap=ref_softcap,
                accumulate=number > 0,
                **common,
            )
        for i in wanted:
            if i not in fused:
                compared = self.compared[i]
                out += outcome_grad(
                    compared, z, us[i], at.lse, at.references[i].lse, w.div[i], (sz, softcap), compared.head.of_rows(self.temperature)
                )
        return out if out.dtype == dtype else out.to(dtype)


def rows_of(at: Statistics, chosen: slice) -> Statistics:
    """The statistics of some of the tokens."""
    references = tuple(Reference(*(None if t is None else t[chosen] for t in r)) for r in at.references)
    return Statistics(at.lse[chosen], at.logp[chosen], at.entropy[chosen], references)


def together(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of chunks as those of all their tokens."""
    if len(parts) == 1:
        return parts[0]
    references = tuple(
        Reference(*(None if t[0] is None else torch.cat(t) for t in zip(*same, strict=True)))
        for same in zip(*(p.references for p in parts), strict=True)
    )
    return Statistics(*(torch.cat([p[i] for p in parts]) for i in range(3)), references)
