"""The statistics with everything spelt as an argument: from hidden states against one reference, and from logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from align_kernels.backends import Rows, rows
from align_kernels.chunk import GradOutputs, Job, Reference, Statistics
from align_kernels.gemm import accumulator
from align_kernels.head import Compared, Comparison, Head, Outcomes, Scaling, every_token
from align_kernels.linear import linear_stats
from align_kernels.outcomes import merges


class TokenStats(NamedTuple):
    """Of each token, [T], nats, float32 (float64 for float64 operands)."""

    logp: Tensor
    """log pi of the labels, differentiable."""
    ref_logp: Tensor | None
    """log ref of the labels; None without a reference."""
    entropy: Tensor
    """H(pi), differentiable."""
    div: Tensor | None
    """D_f(pi||ref), differentiable in the policy; None without a divergence."""


def linear_token_stats(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    ref_hidden: Tensor | None = None,
    ref_weight: Tensor | None = None,
    divergence: Any = None,
    *,
    scale: float = 1.0,
    bias: Tensor | None = None,
    softcap: float | None = None,
    ref_scale: float = 1.0,
    ref_bias: Tensor | None = None,
    ref_softcap: float | None = None,
    **options: Any,
) -> TokenStats:
    """`linear_stats` against one reference: hidden [T, H], weight [V, H], ref_hidden [T, H'], ref_weight [V, H'] (default `weight`).

    `divergence`: has `bregman`, `khat` and `grad_weight` of log u, or `f` alone; a function f(log u); or an `Elementwise`.
    `options`: temperature, elements, backend, logits_dtype, ignore_index, group and first, as there.
    """
    if ref_hidden is None and (divergence is not None or ref_weight is not None):
        raise ValueError("a divergence or a ref_weight has nothing to be compared with: give the reference's hidden states, ref_hidden")
    compared = {}
    if ref_hidden is not None:
        reference = Head(weight if ref_weight is None else ref_weight, ref_bias, ref_scale, ref_softcap)
        compared = {"ref": Compared(divergence, ref_hidden, reference)}
    stats = linear_stats(hidden, Head(weight, bias, scale, softcap), labels, compared=compared, **options)
    return TokenStats(stats.logp, stats.ref_logp.get("ref"), stats.entropy, stats.div.get("ref"))


def token_stats(
    logits: Tensor,
    labels: Tensor,
    ref_logits: Tensor | None = None,
    divergence: Any = None,
    *,
    temperature: float = 1.0,
    backend: str | Rows = "auto",
    outcomes: Outcomes | None = None,
) -> TokenStats:
    """The same from logits that exist already: logits and ref_logits [T, V], differentiable in `logits`.

    `outcomes`: what the divergence is taken over, where not every token (see `Compared`). Raises ValueError for shapes that do not
    fit, and where the backend cannot run.
    """
    if divergence is not None and ref_logits is None:
        raise ValueError("a divergence without ref_logits has nothing to be compared with")
    if labels.shape != logits.shape[:1] or (ref_logits is not None and ref_logits.shape != logits.shape):
        raise ValueError(
            f"logits [T, V], labels [T] and ref_logits [T, V] do not fit: {list(logits.shape)}, {list(labels.shape)}"
            + ("" if ref_logits is None else f", {list(ref_logits.shape)}")
        )
    backend_rows = rows(backend, logits)
    form = None if divergence is None else backend_rows.form(divergence, accumulator(logits.dtype))
    scaling = Scaling(1.0 / temperature, None)
    compared = () if ref_logits is None else (Comparison(form, scaling, outcomes or every_token),)
    like = logits.new_empty(0, dtype=accumulator(logits.dtype))
    job = Job(scaling, compared, backend_rows, None, 0, tuple(merges(c, logits.shape[1], like) for c in compared))
    logp, ref_logp, entropy, div = _TokenStats.apply(job, labels, logits, None if ref_logits is None else ref_logits.detach())
    return TokenStats(logp, ref_logp, entropy, div)


class _TokenStats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: Job, labels: Tensor, logits: Tensor, ref_logits: Tensor | None) -> tuple[Tensor | None, ...]:
        at = job.statistics(logits, [] if ref_logits is None else [ref_logits], labels)
        ref_logp, div = (at.references[0].logp, at.references[0].div) if at.references else (None, None)
        ctx.save_for_backward(labels, logits, ref_logits, *at[:3], *(t for r in at.references for t in r))
        ctx.job = job
        ctx.set_materialize_grads(False)
        if ref_logp is not None:
            ctx.mark_non_differentiable(ref_logp)
        return at.logp, ref_logp, at.entropy, div

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch takes named gradients
        ctx: Any, w_logp: Tensor | None, _: Any, w_entropy: Tensor | None, w_div: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        labels, logits, ref_logits, lse, logp, entropy, *reference = ctx.saved_tensors
        if w_logp is None and w_entropy is None and w_div is None:
            return None, None, None, None
        ref_zs, references = ([], ()) if ref_logits is None else ([ref_logits], (Reference(*reference),))
        grad_outputs = GradOutputs(w_logp, w_entropy, [] if ref_logits is None else [w_div])
        grad = ctx.job.gradient(
            logits, ref_zs, labels, Statistics(lse, logp, entropy, references), grad_outputs, first=0, dtype=logits.dtype
        )
        return None, None, grad, None
