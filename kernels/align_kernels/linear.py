"""From hidden states to the statistics of each token, without the [T, V] matrix: forward by tokens, backward by blocks of both.

Forward, a chunk of tokens at a time: both passes of the divergence run on the logits in hand, and O(T) numbers are kept. Backward, the
logits are computed again, a block of the vocabulary (and of the tokens where one is not enough) at a time: with the log-normalisers
known a block needs no other, so each block of the weight's gradient is written once, in its final type, and the sum has one order.
Where the logits of the whole call fit into the budget they are kept instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from align_kernels import gemm
from align_kernels.backends import Rows
from align_kernels.call import prepare_call
from align_kernels.chunk import GradOutputs, Job, Reference, Statistics, chosen_tokens, concatenate
from align_kernels.head import Compared, Head
from align_kernels.parallel import sum_over_ranks
from align_kernels.plain import is_plain, torch_statistics

EDGE = 128
"""The backward pass's blocks have multiples of this, as the GEMM's tiles have. Columns are the distance between two rows of logits: an odd
number of them would keep GEMM and kernels from loads of 16 bytes."""


class LinearStats(NamedTuple):
    """Of each token, [T], nats, float32 (float64 for float64 operands)."""

    logp: Tensor
    """log pi of the labels, differentiable."""
    entropy: Tensor
    """H(pi), differentiable."""
    ref_logp: dict[str, Tensor]
    """By comparison: log ref of the labels."""
    div: dict[str, Tensor]
    """By comparison that has a divergence: D_f(pi||ref) of each state, differentiable in the policy."""


def linear_stats(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    compared: Mapping[str, Compared] | None = None,
    elements: int | None = None,
    backend: str | Rows = "auto",
    logits_dtype: torch.dtype | None = None,
    ignore_index: int | None = -100,
    group: Any = None,
    first: int = 0,
) -> LinearStats:
    """Statistics of each token under `softmax(head(hidden)/temperature)`, compared with any number of references.

    Args: hidden [T, H]; labels int64 [T]; `elements`: logits that may exist at once (default 2^28 on CUDA, 2^24 elsewhere);
    `logits_dtype`: default float32 where a divergence is asked, else the operands' (bfloat16 logits are off by a tenth of a nat at
    worst, and useless for a divergence near the reference); labels equal to `ignore_index` cost nothing and get zeros;
    `group`: the head's weight and bias (and the references') are this rank's rows of them, beginning with the token `first`.
    Raises ValueError for shapes that do not fit, and where the backend cannot run.
    """
    call = prepare_call(hidden, head, labels, temperature, compared or {}, elements, backend, logits_dtype, ignore_index, group, first)
    if is_plain(call, head):
        logp, entropy = torch_statistics(call, head)
        return LinearStats(call.with_zeros(logp), call.with_zeros(entropy), {}, {})
    references = [None if t is None else t.detach() for c in call.compared for t in (c.hidden, c.head.weight, c.head.bias)]
    logp, entropy, *rest = _LinearStats.apply(
        call.job, call.elements, call.dtype, call.labels, call.hidden, head.weight, head.bias, *references
    )
    logp, entropy, *rest = (call.with_zeros(t) for t in (logp, entropy, *rest))
    asked = [name for name, c in (compared or {}).items() if c.divergence is not None]
    count = len(call.compared)
    return LinearStats(logp, entropy, dict(zip(compared or {}, rest[:count], strict=True)), dict(zip(asked, rest[count:], strict=True)))


class _LinearStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        job: Job,
        elements: int,
        dtype: torch.dtype,
        labels: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *references: Tensor | None,
    ) -> tuple[Tensor, ...]:
        sides = [(hidden, weight, bias), *zip(*[iter(references)] * 3, strict=True)]
        share, vocabulary = elements // len(sides), len(weight)
        rows, parts, kept = _chunk(len(labels), vocabulary, share), [], None
        for i in range(0, max(1, len(labels)), rows):
            kept = [gemm.logits(h[i : i + rows], w, b, dtype, share) for h, w, b in sides]
            parts.append(job.statistics(kept[0], kept[1:], labels[i : i + rows]))
        at = concatenate(parts)
        if len(parts) > 1 or not any(ctx.needs_input_grad):
            kept = None
        # As inputs to the save, so that autograd notices a weight that is changed in place before the backward pass.
        tensors = [labels, at.lse, at.logp, at.entropy, *(t for side in (*sides, *at.references) for t in side), *(kept or [])]
        ctx.save_for_backward(*tensors)
        ctx.job, ctx.share, ctx.dtype, ctx.count = job, share, dtype, len(sides)
        ctx.set_materialize_grads(False)
        ref_logp = [r.logp for r in at.references]
        ctx.mark_non_differentiable(*ref_logp)
        ctx.asked = [r.div is not None for r in at.references]
        return (at.logp, at.entropy, *ref_logp, *(r.div for r in at.references if r.div is not None))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch takes named gradients
        ctx: Any, w_logp: Tensor | None, w_entropy: Tensor | None, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        labels, lse, logp, entropy, *saved = ctx.saved_tensors
        sides = list(zip(*[iter(saved[: 3 * ctx.count])] * 3, strict=True))
        references, kept = _unpacked(saved[3 * ctx.count :], ctx.count - 1)
        at = Statistics(lse, logp, entropy, references)
        upstream = iter(grads[ctx.count - 1 :])
        grad_outputs = GradOutputs(w_logp, w_entropy, [next(upstream) if asked else None for asked in ctx.asked])
        _, _, _, _, *wanted = ctx.needs_input_grad[:7]
        found = (None, None, None)
        if any(w is not None for w in (w_logp, w_entropy, *grad_outputs.div)):
            found = _gradients(ctx.job, labels, sides, at, grad_outputs, kept, ctx.share, ctx.dtype, wanted)
        return (None, None, None, None, *found, *[None] * (3 * (ctx.count - 1)))


def _unpacked(saved: list[Tensor], count: int) -> tuple[tuple[Reference, ...], list[Tensor]]:
    """`count` references, and the logits that were kept."""
    size = len(Reference._fields)
    references = tuple(Reference(*saved[size * i : size * (i + 1)]) for i in range(count))
    return references, saved[size * count :]


def _gradients(
    job: Job,
    labels: Tensor,
    sides: Sequence[tuple],
    at: Statistics,
    grad_outputs: GradOutputs,
    kept: list[Tensor],
    share: int,
    dtype: torch.dtype,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    hidden, weight, bias = sides[0]
    wide = gemm.accumulator(hidden.dtype)
    d_hidden = torch.empty_like(hidden, dtype=wide) if wanted[0] else None
    d_weight = torch.empty_like(weight) if wanted[1] else None
    d_bias = torch.empty_like(bias) if bias is not None and wanted[2] else None
    merged = any(w is not None and r.pull_sum is None for w, r in zip(grad_outputs.div, at.references, strict=True))
    tokens, columns = (len(labels), len(weight)) if kept else _block(len(labels), len(weight), share, whole_rows=merged)
    for v in range(0, len(weight), columns):
        block = slice(v, v + columns)
        d_block: Tensor | None = None
        d_bias_block: Tensor | None = None
        for t in range(0, max(1, len(labels)), max(1, tokens)):
            chosen = slice(t, t + tokens)
            z, *ref_zs = kept or [gemm.logits(h[chosen], w[block], None if b is None else b[block], dtype, share) for h, w, b in sides]
            grad = job.gradient(
                z, ref_zs, labels[chosen], chosen_tokens(at, chosen), grad_outputs.of(chosen), first=job.first + v, dtype=hidden.dtype
            )
            if d_hidden is not None and v == 0:
                gemm.product(grad, weight[block], out=d_hidden[chosen])
            elif d_hidden is not None:
                gemm.add_product(d_hidden[chosen], grad, weight[block])
            if d_weight is not None:
                factors = grad.T, hidden[chosen]
                d_block = gemm.product(*factors) if d_block is None else gemm.add_product(d_block, *factors)
            if d_bias is not None:
                total = grad.sum(0, dtype=wide)
                d_bias_block = total if d_bias_block is None else d_bias_block + total
        if d_weight is not None and d_block is not None:
            d_weight[block] = d_block
        if d_bias is not None and d_bias_block is not None:
            d_bias[block] = d_bias_block
    if d_hidden is not None:
        (d_hidden,) = sum_over_ranks((d_hidden,), job.group)
        d_hidden = d_hidden.to(hidden.dtype)
    return d_hidden, d_weight, d_bias


def _chunk(tokens: int, vocabulary: int, share: int) -> int:
    """How many of the tokens have at most `share` logits: all of them, or a multiple of 8 where it is 8 or more; at least one."""
    return max(1, tokens) if tokens * vocabulary <= share else _round_down(share // vocabulary, 8)


def _block(tokens: int, vocabulary: int, share: int, *, whole_rows: bool) -> tuple[int, int]:
    """The shape of the blocks of at most `share` logits: as square as [tokens, vocabulary] allows, for every GEMM reads both its edges.

    An edge that is not the matrix's own is a multiple of EDGE, or smaller than EDGE; both are at least one.
    """
    side = math.isqrt(share)
    if whole_rows or vocabulary <= max(1, side):
        return _round_down(share // vocabulary, EDGE), vocabulary
    rows = tokens if tokens <= side else _round_down(side, EDGE)
    return rows, min(vocabulary, _round_down(share // max(1, rows), EDGE))


def _round_down(count: int, multiple: int) -> int:
    return max(1, count if count < multiple else count - count % multiple)
