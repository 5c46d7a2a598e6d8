"""The three passes over rows of logits as Triton kernels; arguments and results as in torch_rows.

Between them only [T] numbers are kept, so that a vocabulary may be split over chunks or ranks: statistics are merged after the first pass,
sums are added after the second.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from align_kernels.row import RowStats
from align_kernels.triton_rows.grad import row_grad_kernel
from align_kernels.triton_rows.launch import GRAD, ONE_PASS, STATS, SUM, Kernel, accumulator, check_rows, launch_rows
from align_kernels.triton_rows.one_pass import one_pass_kernel
from align_kernels.triton_rows.stats import row_stats_kernel
from align_kernels.triton_rows.sums import row_sum_kernel

__all__ = ["one_pass", "row_grad", "row_stats", "row_sum"]


def row_stats(
    z: Tensor,
    ref_z: Tensor | None,
    labels: Tensor,
    *,
    scale: float,
    ref_scale: float = 1.0,
    first: int = 0,
    softcap: float | None = None,
    ref_softcap: float | None = None,
) -> RowStats:
    """Pass 1: maxima and sums of exponentials. z, ref_z [T, V]; labels int64 [T], global ids."""
    check_rows(z, ref_z)
    (T, V), acc = z.shape, accumulator(z)
    out = torch.empty(7, T, dtype=torch.float64, device=z.device)
    launch_rows(
        row_stats_kernel,
        z,
        ref_z,
        labels.contiguous(),
        out,
        V,
        z.stride(0),
        0 if ref_z is None else ref_z.stride(0),
        T,
        first,
        float(scale),
        float(ref_scale),
        _float(softcap),
        _float(ref_softcap),
        ACC=_TYPES[acc],
        **STATS[z.element_size()],
    )
    stats = RowStats(*out.to(acc))._replace(s_p=out[1], s_q=out[5])
    return stats if ref_z is not None else stats._replace(m_q=None, s_q=None, u_y=None)


def one_pass(
    z: Tensor,
    ref_z: Tensor,
    labels: Tensor,
    *,
    scale: float,
    ref_scale: float,
    fn: Kernel,
    first: int = 0,
    softcap: float | None = None,
    ref_softcap: float | None = None,
) -> tuple[RowStats, Tensor, Tensor]:
    """Passes 1 and 2 at once: the statistics, the sum of the terms of `fn`, and pull_sum = power * sum.

    Raises ValueError where it has no power.
    """
    if fn.power is None:
        raise ValueError("one pass is for divergences of the alpha family alone: use row_stats and row_sum")
    check_rows(z, ref_z)
    (T, V), acc = z.shape, accumulator(z)
    out = torch.empty(8, T, dtype=torch.float64, device=z.device)
    functions = fn.triton(acc)
    launch_rows(
        one_pass_kernel,
        z,
        ref_z,
        labels.contiguous(),
        out,
        V,
        z.stride(0),
        ref_z.stride(0),
        T,
        first,
        float(scale),
        float(ref_scale),
        _float(softcap),
        _float(ref_softcap),
        fn.params,
        float(fn.power),
        TERM=functions.term,
        TERMS=functions.terms,
        ACC=_TYPES[acc],
        **ONE_PASS[z.element_size()],
    )
    *stats, total = out.to(acc)
    return RowStats(*stats)._replace(s_p=out[1], s_q=out[5]), total, fn.power * total


def row_sum(
    z: Tensor,
    ref_z: Tensor,
    lse_p: Tensor,
    lse_q: Tensor,
    *,
    scale: float,
    ref_scale: float,
    fn: Kernel,
    softcap: float | None = None,
    ref_softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Pass 2, over this shard: the sum of the divergence's terms before its transform, and pull_sum, the sum of pulls."""
    check_rows(z, ref_z)
    (T, V), acc = z.shape, accumulator(z)
    out = torch.empty(2, T, dtype=acc, device=z.device)
    launch_rows(
        row_sum_kernel,
        z,
        ref_z,
        lse_p.contiguous(),
        lse_q.contiguous(),
        out,
        V,
        z.stride(0),
        ref_z.stride(0),
        T,
        float(scale),
        float(ref_scale),
        _float(softcap),
        _float(ref_softcap),
        fn.params,
        TERMS=fn.triton(acc).terms,
        ACC=_TYPES[acc],
        **SUM[z.element_size()],
    )
    return out[0], out[1]


def row_grad(
    z: Tensor,
    ref_z: Tensor | None,
    lse_p: Tensor,
    lse_q: Tensor | None,
    labels: Tensor | None,
    entropy: Tensor | None,
    pull_sum: Tensor | None,
    w_logp: Tensor | None,
    w_entropy: Tensor | None,
    w_div: Tensor | None,
    *,
    scale: float,
    ref_scale: float = 1.0,
    first: int = 0,
    fn: Kernel | None = None,
    softcap: float | None = None,
    ref_softcap: float | None = None,
    out: Tensor | None = None,
    accumulate: bool = False,
) -> Tensor:
    """Backward: the gradient wrt the unscaled logits, [T, V] in the type of `out`. A weight [T] that is None has no term."""
    ref_z, lse_q, pull_sum = (None, None, None) if w_div is None else (ref_z, lse_q, pull_sum)
    out = torch.empty_like(z, dtype=accumulator(z)) if out is None else out
    check_rows(z, ref_z, out)
    V, acc = z.shape[1], accumulator(z)
    stride_u, numbers, pull = 0, (), None
    if w_div is not None:
        assert ref_z is not None and fn is not None
        stride_u, numbers, pull = ref_z.stride(0), fn.params, fn.triton(acc).pull
    per_row = [None if t is None else t.contiguous() for t in (lse_p, lse_q, labels, entropy, pull_sum, w_logp, w_entropy, w_div)]
    launch_rows(
        row_grad_kernel,
        z,
        ref_z,
        *per_row,
        out,
        V,
        z.stride(0),
        stride_u,
        out.stride(0),
        first,
        float(scale),
        float(ref_scale),
        _float(softcap),
        _float(ref_softcap),
        numbers,
        PULL=pull,
        ADD=accumulate,
        ACC=_TYPES[acc],
        **GRAD[z.element_size()],
    )
    return out


_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def _float(cap: float | None) -> float | None:
    """Never an int: Triton compiles the kernel again for some of them."""
    return None if cap is None else float(cap)
