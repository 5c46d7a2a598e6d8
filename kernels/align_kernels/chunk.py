"""What is done with the logits of one chunk of tokens while they exist: statistics forward, the gradient wrt the logits backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from align_kernels.backends import Rows
from align_kernels.head import Comparison, Scaling
from align_kernels.outcomes import log_probs, outcome_grad, outcome_sum
from align_kernels.parallel import merge_shards, sum_over_ranks
from align_kernels.row import PolicyRows
from align_kernels.terms import transformed


class Reference(NamedTuple):
    """What one comparison leaves, each [T]. `div` and what its gradient needs are None where no divergence is asked."""

    lse: Tensor
    logp: Tensor
    div: Tensor | None
    pull_sum: Tensor | None
    """sum pi c; None where outcomes are merged."""
    slope: Tensor | None


class Statistics(NamedTuple):
    """What the tokens of a chunk leave behind: O(T)."""

    lse: Tensor
    logp: Tensor
    entropy: Tensor
    references: tuple[Reference, ...]


class GradOutputs(NamedTuple):
    """Upstream gradients [T] of log-prob, entropy and each divergence; None where nothing flows back."""

    logp: Tensor | None
    entropy: Tensor | None
    div: Sequence[Tensor | None]

    def of(self, chosen: slice) -> GradOutputs:
        """Those of some of the tokens."""
        return GradOutputs(_part(self.logp, chosen), _part(self.entropy, chosen), [_part(w, chosen) for w in self.div])


@dataclass(frozen=True)
class Job:
    """Everything about a call that is not a tensor of its tokens."""

    scaling: Scaling
    """Of the policy's logits."""
    compared: tuple[Comparison, ...]
    rows: Rows
    group: Any
    first: int
    """Global id of the head's first token."""
    merged: tuple[bool, ...]
    """Of each comparison: its outcomes are no single tokens, so that it needs whole rows."""

    def __post_init__(self) -> None:
        if any(self.merged) and self.group is not None:
            raise ValueError("merged outcomes (top-k) and divergences of whole rows need the whole vocabulary on one rank: leave out group")

    def statistics(self, z: Tensor, ref_zs: Sequence[Tensor], labels: Tensor) -> Statistics:
        """Of logits z [T, V] and the references' ref_zs; labels are global ids."""
        if not ref_zs:
            return Statistics(*self._own_statistics(z, labels, self.scaling), ())
        own, first = self._first_comparison(z, ref_zs[0], labels)
        references = [first]
        for i, ref_z in enumerate(ref_zs[1:], 1):
            lse_q, ref_logp, _ = self._own_statistics(ref_z, labels, self.compared[i].scaling)
            references.append(self._reference(i, z, ref_z, own.lse, lse_q, ref_logp, None))
        return Statistics(*own, tuple(references))

    def _own_statistics(self, z: Tensor, labels: Tensor, scaling: Scaling) -> PolicyRows:
        stats = self.rows.row_stats(z, None, labels, scale=scaling.s, first=self.first, softcap=scaling.softcap)
        return merge_shards(stats, self.group).policy()

    def _first_comparison(self, z: Tensor, ref_z: Tensor, labels: Tensor) -> tuple[PolicyRows, Reference]:
        """The policy's statistics and the first comparison's, whose logits are read together."""
        (scale, softcap), (ref_scale, ref_softcap) = self.scaling, self.compared[0].scaling
        keys = {"scale": scale, "ref_scale": ref_scale, "first": self.first, "softcap": softcap, "ref_softcap": ref_softcap}
        one_pass, sums = self._one_pass(), None
        if one_pass is None:
            stats = merge_shards(self.rows.row_stats(z, ref_z, labels, **keys), self.group)
        else:
            stats, *sums = one_pass(z, ref_z, labels, fn=self.compared[0].divergence, **keys)
        own, (lse_q, ref_logp) = stats.policy(), stats.reference()
        return own, self._reference(0, z, ref_z, own.lse, lse_q, ref_logp, sums)

    def _one_pass(self) -> Callable | None:
        """The backend's, where the first comparison can take it."""
        divergence = self.compared[0].divergence
        # A shard has a centre of its own, and merged outcomes are no elements.
        if self.rows.one_pass is None or divergence is None or self.merged[0] or self.group is not None:
            return None
        return None if divergence.power is None else self.rows.one_pass

    def _reference(
        self, i: int, z: Tensor, ref_z: Tensor, lse_p: Tensor, lse_q: Tensor, ref_logp: Tensor, sums: Sequence[Tensor] | None
    ) -> Reference:
        """`sums`: what row_sum would give, where it is known."""
        compared = self.compared[i]
        if compared.divergence is None:
            return Reference(lse_q, ref_logp, None, None, None)
        policy, reference = self.scaling, compared.scaling
        if self.merged[i]:
            div = outcome_sum(compared, log_probs(z, lse_p, policy), log_probs(ref_z, lse_q, reference))
            return Reference(lse_q, ref_logp, div, None, None)
        if sums is None:
            keys = {"scale": policy.s, "ref_scale": reference.s, "softcap": policy.softcap, "ref_softcap": reference.softcap}
            sums = sum_over_ranks(self.rows.row_sum(z, ref_z, lse_p, lse_q, fn=compared.divergence, **keys), self.group)
        div, slope = transformed(compared.divergence, sums[0])
        return Reference(lse_q, ref_logp, div, sums[1], slope)

    def gradient(
        self,
        z: Tensor,
        ref_zs: Sequence[Tensor],
        labels: Tensor,
        at: Statistics,
        grad_outputs: GradOutputs,
        *,
        first: int,
        dtype: torch.dtype,
    ) -> Tensor:
        """d(sum grad_outputs * statistics)/dz for the columns z [T, V'] whose first has the global id `first`, in `dtype`."""
        wanted = {i: weight for i, weight in enumerate(grad_outputs.div) if weight is not None}
        fused = {
            i: (r.pull_sum, wanted[i] * r.slope)
            for i, r in enumerate(at.references)
            if i in wanted and r.pull_sum is not None and r.slope is not None
        }
        # More than one contribution is summed in float32 and rounded once.
        several = len(fused) > 1 or len(fused) < len(wanted)
        out = torch.empty_like(z, dtype=torch.promote_types(dtype, torch.float32) if several else dtype)
        common = {"scale": self.scaling.s, "softcap": self.scaling.softcap, "first": first, "out": out}
        sampled = (at.entropy, grad_outputs.logp, grad_outputs.entropy)
        if not fused:
            self.rows.row_grad(z, None, at.lse, None, labels, at.entropy, None, grad_outputs.logp, grad_outputs.entropy, None, **common)
        for number, (i, (pull_sum, w_div)) in enumerate(fused.items()):
            entropy, w_logp, w_entropy = sampled if number == 0 else (None, None, None)
            compared = self.compared[i]
            self.rows.row_grad(
                z,
                ref_zs[i],
                at.lse,
                at.references[i].lse,
                labels,
                entropy,
                pull_sum,
                w_logp,
                w_entropy,
                w_div,
                ref_scale=compared.scaling.s,
                fn=compared.divergence,
                ref_softcap=compared.scaling.softcap,
                accumulate=number > 0,
                **common,
            )
        for i, weight in wanted.items():
            if i not in fused:
                out += outcome_grad(self.compared[i], z, ref_zs[i], at.lse, at.references[i].lse, weight, self.scaling)
        return out if out.dtype == dtype else out.to(dtype)


def chosen_tokens(at: Statistics, chosen: slice) -> Statistics:
    """The statistics of some of the tokens."""
    references = tuple(Reference._make(_part(t, chosen) for t in r) for r in at.references)
    return Statistics(at.lse[chosen], at.logp[chosen], at.entropy[chosen], references)


def concatenate(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of chunks as those of all their tokens."""
    if len(parts) == 1:
        return parts[0]
    references = tuple(
        Reference._make(None if t[0] is None else torch.cat(t) for t in zip(*same, strict=True))
        for same in zip(*(p.references for p in parts), strict=True)
    )
    lse, logp, entropy = (torch.cat(own) for own in zip(*(p[:3] for p in parts), strict=True))
    return Statistics(lse, logp, entropy, references)


def _part(t: Tensor | None, chosen: slice) -> Tensor | None:
    return None if t is None else t[chosen]
