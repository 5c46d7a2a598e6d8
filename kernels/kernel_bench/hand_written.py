"""KL(pi||ref) as one writes it in Triton for this divergence alone: what the generated kernels are held against.

Forward in one reading of both rows, with the streaming sums `s = sum e^(x - m_p)` and `t = sum e^(x - m_p) ((x - m_p) - (y - m_q))`:
`D = t/s - log s_p + log s_q`, nats. Backward one reading more: `dD/dx = p (d - D)` with `d = log p - log q`. It leaves the same [T] numbers
as the generated passes, entropy and the label's log-probs too. It has a scale but no soft cap, and no gradient but the divergence's.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from align_kernels import triton_rows
from align_kernels.backends import Rows
from align_kernels.codegen import lib
from align_kernels.row import RowStats
from align_kernels.triton_rows.launch import launch_rows
from align_kernels.triton_rows.stats import NOTHING, put
from kernel_bench.jobs import BY_HAND

FORWARD = {"K": 4, "B": 512, "num_warps": 4}
BACKWARD = {"B": 1024, "num_warps": 4}


def reverse_kl() -> Rows:
    """The row functions, for float32 or half-precision logits [T, V]. The first two are never called: `one_pass` does for both."""
    return Rows(f"{BY_HAND} triton", triton_rows.row_stats, triton_rows.row_sum, row_grad, one_pass)


def one_pass(
    z: Tensor, u: Tensor, labels: Tensor, *, scale: float, ref_scale: float, first: int, **_: Any
) -> tuple[RowStats, Tensor, Tensor]:
    """Statistics, D and S = D, each [T]."""
    T, V = z.shape
    out = torch.empty(8, T, device=z.device)
    launch_rows(forward, z, u, labels, out, V, z.stride(0), u.stride(0), T, first, float(scale), float(ref_scale), **FORWARD)
    return RowStats(*out[:7]), out[7], out[7]


def row_grad(
    z: Tensor,
    u: Tensor,
    lse_p: Tensor,
    lse_q: Tensor,
    _labels: Tensor,
    _entropy: Tensor,
    D: Tensor,
    _w_logp: None,
    _w_entropy: None,
    w_div: Tensor,
    *,
    scale: float,
    ref_scale: float,
    out: Tensor,
    **_: Any,
) -> Tensor:
    """The gradient of sum w_div D in the unscaled logits, [T, V]."""
    launch_rows(
        backward,
        z,
        u,
        lse_p,
        lse_q,
        D,
        w_div.contiguous(),
        out,
        z.shape[1],
        z.stride(0),
        u.stride(0),
        out.stride(0),
        float(scale),
        float(ref_scale),
        **BACKWARD,
    )
    return out


@triton.jit
def _load(LOGITS, cols, mask, scale):
    if mask is None:  # noqa: SIM108 - a choice at compile time
        x = tl.load(LOGITS + cols).to(tl.float32)
    else:
        x = tl.load(LOGITS + cols, mask=mask, other=-float("inf")).to(tl.float32)
    return tl.maximum(x * scale, NOTHING)


@triton.jit
def _absorb(x, y, m_p, s_p, e_p, t, m_q, s_q):
    """Lanes' running sums [B] and a tile of both rows [K, B]; e is t without the reference, for the entropy."""
    higher_p = tl.maximum(m_p, tl.max(x, axis=0))
    higher_q = tl.maximum(m_q, tl.max(y, axis=0))
    down_p = m_p - higher_p
    down_q = m_q - higher_q
    rescale = lib.exp(down_p)
    x -= higher_p[None, :]
    y -= higher_q[None, :]
    p = lib.exp(x)
    e_p = (e_p + s_p * down_p) * rescale + tl.sum(p * x, axis=0)
    t = (t + s_p * (down_p - down_q)) * rescale + tl.sum(p * (x - y), axis=0)
    s_p = s_p * rescale + tl.sum(p, axis=0)
    s_q = s_q * lib.exp(down_q) + tl.sum(lib.exp(y), axis=0)
    return higher_p, s_p, e_p, t, higher_q, s_q


@triton.jit(do_not_specialize=["stride_out", "first"])
def forward(
    LOGITS, REF_LOGITS, LABELS, STATS, V, stride, stride_ref, stride_out, first, scale, ref_scale, K: tl.constexpr, B: tl.constexpr
):
    """One program a row; STATS [8, T]: the statistics in RowStats' order, and D."""
    row = tl.program_id(0).to(tl.int64)
    LOGITS += row * stride
    REF_LOGITS += row * stride_ref
    STATS += row
    m_p = tl.full([B], NOTHING, tl.float32)
    s_p = tl.zeros([B], tl.float32)
    e_p = tl.zeros([B], tl.float32)
    t = tl.zeros([B], tl.float32)
    m_q = tl.full([B], NOTHING, tl.float32)
    s_q = tl.zeros([B], tl.float32)
    cols = tl.arange(0, K)[:, None] * B + tl.arange(0, B)[None, :]
    whole = V - V % (K * B)
    for start in range(0, whole, K * B):
        x, y = _load(LOGITS, start + cols, None, scale), _load(REF_LOGITS, start + cols, None, ref_scale)
        m_p, s_p, e_p, t, m_q, s_q = _absorb(x, y, m_p, s_p, e_p, t, m_q, s_q)
    if whole < V:
        cols += whole
        x, y = _load(LOGITS, cols, cols < V, scale), _load(REF_LOGITS, cols, cols < V, ref_scale)
        m_p, s_p, e_p, t, m_q, s_q = _absorb(x, y, m_p, s_p, e_p, t, m_q, s_q)

    top_p = tl.max(m_p, axis=0)
    top_q = tl.max(m_q, axis=0)
    down_p = m_p - top_p
    down_q = m_q - top_q
    rescale = lib.exp(down_p)
    sum_p = tl.sum(s_p * rescale, axis=0)
    sum_q = tl.sum(s_q * lib.exp(down_q), axis=0)
    label = tl.load(LABELS + row) - first
    here = (label >= 0) & (label < V)
    STATS = put(STATS, top_p, stride_out)
    STATS = put(STATS, sum_p, stride_out)
    STATS = put(STATS, tl.sum((e_p + s_p * down_p) * rescale, axis=0), stride_out)
    STATS = put(STATS, _load(LOGITS, label, here, scale), stride_out)
    STATS = put(STATS, top_q, stride_out)
    STATS = put(STATS, sum_q, stride_out)
    STATS = put(STATS, _load(REF_LOGITS, label, here, ref_scale), stride_out)
    t = tl.sum((t + s_p * (down_p - down_q)) * rescale, axis=0)
    put(STATS, t / sum_p - (tl.log(sum_p) - tl.log(sum_q)), stride_out)


@triton.jit
def _slope(LOGITS, REF_LOGITS, GRAD, cols, mask, lse, shift, w, scale, ref_scale):
    x, y = _load(LOGITS, cols, mask, scale), _load(REF_LOGITS, cols, mask, ref_scale)
    g = w * lib.exp(x - lse) * ((x - y) - shift)
    tl.store(GRAD + cols, g.to(GRAD.dtype.element_ty), mask=mask)


@triton.jit
def backward(LOGITS, REF_LOGITS, LSE_P, LSE_Q, DIV, W_DIV, GRAD, V, stride, stride_ref, stride_grad, scale, ref_scale, B: tl.constexpr):
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    LOGITS += row * stride
    REF_LOGITS += row * stride_ref
    GRAD += row * stride_grad
    lse = tl.load(LSE_P + row)
    # Of the two normalisers the difference is taken first, in whatever they come.
    shift = (lse - tl.load(LSE_Q + row)).to(tl.float32) + tl.load(DIV + row)
    lse = lse.to(tl.float32)
    w = tl.load(W_DIV + row) * scale
    cols = tl.arange(0, B)
    whole = V - V % B
    for start in range(0, whole, B):
        _slope(LOGITS, REF_LOGITS, GRAD, start + cols, None, lse, shift, w, scale, ref_scale)
    if whole < V:
        cols += whole
        _slope(LOGITS, REF_LOGITS, GRAD, cols, cols < V, lse, shift, w, scale, ref_scale)
