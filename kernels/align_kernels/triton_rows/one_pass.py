"""Statistics and divergence of each row in one pass, for the alpha family: `k(u) = s k_a(u)`, power a.

With any centre c, `delta = x - y - c` and `L = log E_ref e^delta` (so that log pi/ref = delta - L), the family's powers give

    D = e^(-a L) (E_ref k(e^delta) - k(e^L)),

the gap of Jensen's inequality: no term of it needs a normaliser, and near the reference every one is as small as D, if c is near the
log-ratio of the rows' likely tokens. The label is one. Where it is not, the gap cancels and the row is read again.
"""

import triton
import triton.language as tl

from align_kernels.codegen import lib
from align_kernels.triton_rows.load import load_logits
from align_kernels.triton_rows.stats import NOTHING, put
from align_kernels.triton_rows.sums import row_sums

# Bits that the gap may cancel, as a factor; and where e^L still has its digits.
CANCELLED = tl.constexpr(64.0)
FARTHEST = tl.constexpr(1.0)
# A sum beyond this holds the bound of an infinite term.
LARGE = tl.constexpr(1e20)


@triton.jit
def _excess(p, q, delta):
    """p - q = q (e^delta - 1), to its own digits."""
    if delta.dtype == tl.float64:
        return tl.where(delta < 1.0, q * lib.expm1(delta), p - q)
    series = 1.0 / 24.0 + delta * (1.0 / 120.0 + delta * (1.0 / 720.0 + delta * (1.0 / 5040.0)))
    series = delta * (1.0 + delta * (0.5 + delta * (1.0 / 6.0 + delta * series)))
    return tl.where(tl.abs(delta) < 0.25, q * series, p - q)


@triton.jit
def _absorb(x, y, centre, m_p, s_p, e_p, m_q, s_q, excess, terms, numbers, TERM: tl.constexpr):
    """Lanes' running sums [B], the reference's side in units of e^m_q, and a tile of both [K, B]: one rescaling for K pairs."""
    x = tl.maximum(x, NOTHING)
    y = tl.maximum(y, NOTHING)
    delta = (x - y) - centre
    higher_p = tl.maximum(m_p, tl.max(x, axis=0))
    higher_q = tl.maximum(m_q, tl.max(y, axis=0))
    down_p = m_p - higher_p
    rescale_p = lib.exp(down_p)
    rescale_q = lib.exp(m_q - higher_q)
    x -= higher_p[None, :]
    p = lib.exp(x)
    q = lib.exp(y - higher_q[None, :])
    e_p = (e_p + s_p * down_p) * rescale_p + tl.sum(p * x, axis=0)
    s_p = s_p * rescale_p + tl.sum(p, axis=0)
    s_q = s_q * rescale_q + tl.sum(q, axis=0)
    p *= lib.exp(higher_p - higher_q - centre)[None, :]
    excess = excess * rescale_q + tl.sum(_excess(p, q, delta), axis=0)
    terms = terms * rescale_q + tl.sum(TERM(x, y, delta, p, q, numbers), axis=0)
    return higher_p, s_p, e_p, higher_q, s_q, excess, terms


@triton.jit(do_not_specialize=["stride_out", "first"])
def one_pass_kernel(
    LOGITS,
    REF_LOGITS,
    LABELS,
    STATS,
    V,
    stride,
    stride_ref,
    stride_out,
    first,
    scale,
    ref_scale,
    cap,
    ref_cap,
    numbers,
    power,
    TERM: tl.constexpr,
    TERMS: tl.constexpr,
    K: tl.constexpr,
    B: tl.constexpr,
    ACC: tl.constexpr,
):
    """One program a row; STATS [8, T] float64: the statistics in RowStats' order, and the sum of the divergence's terms."""
    row = tl.program_id(0).to(tl.int64)
    LOGITS += row * stride
    REF_LOGITS += row * stride_ref
    STATS += row
    label = tl.load(LABELS + row) - first
    here = (label >= 0) & (label < V)
    z_y = load_logits(LOGITS, label, here, scale, cap, ACC)
    u_y = load_logits(REF_LOGITS, label, here, ref_scale, ref_cap, ACC)
    centre = tl.where((z_y > NOTHING) & (u_y > NOTHING), z_y - u_y, 0.0)

    m_p = tl.full([B], NOTHING, ACC)
    s_p = tl.zeros([B], ACC)
    e_p = tl.zeros([B], ACC)
    m_q = tl.full([B], NOTHING, ACC)
    s_q = tl.zeros([B], ACC)
    excess = tl.zeros([B], ACC)
    terms = tl.zeros([B], ACC)
    cols = tl.arange(0, K)[:, None] * B + tl.arange(0, B)[None, :]
    whole = V - V % (K * B)
    for start in range(0, whole, K * B):
        x = load_logits(LOGITS, start + cols, None, scale, cap, ACC)
        y = load_logits(REF_LOGITS, start + cols, None, ref_scale, ref_cap, ACC)
        m_p, s_p, e_p, m_q, s_q, excess, terms = _absorb(x, y, centre, m_p, s_p, e_p, m_q, s_q, excess, terms, numbers, TERM)
    if whole < V:
        cols += whole
        x = load_logits(LOGITS, cols, cols < V, scale, cap, ACC)
        y = load_logits(REF_LOGITS, cols, cols < V, ref_scale, ref_cap, ACC)
        m_p, s_p, e_p, m_q, s_q, excess, terms = _absorb(x, y, centre, m_p, s_p, e_p, m_q, s_q, excess, terms, numbers, TERM)

    top_p = tl.max(m_p, axis=0)
    down = m_p - top_p
    rescale = lib.exp(down)
    sum_p = tl.sum((s_p * rescale).to(tl.float64), axis=0)
    STATS = put(STATS, top_p, stride_out)
    STATS = put(STATS, sum_p, stride_out)
    STATS = put(STATS, tl.sum((e_p + s_p * down) * rescale, axis=0), stride_out)
    STATS = put(STATS, z_y, stride_out)
    top_q = tl.max(m_q, axis=0)
    rescale = lib.exp(m_q - top_q)
    sum_q = tl.sum((s_q * rescale).to(tl.float64), axis=0)
    STATS = put(STATS, top_q, stride_out)
    STATS = put(STATS, sum_q, stride_out)
    STATS = put(STATS, u_y, stride_out)

    one = sum_q.to(ACC)
    L = lib.log1p(tl.sum(excess * rescale, axis=0) / one)
    mean = tl.sum(terms * rescale, axis=0) / one
    own = TERM(z_y, u_y, L, lib.exp(L), one / one, numbers)
    gap = tl.maximum(mean - own, 0.0)
    D = lib.exp(-power * L) * gap
    if not ((tl.abs(L) < FARTHEST) & (own <= gap * CANCELLED) & (mean < LARGE)):
        lse_p = top_p + tl.log(sum_p)
        lse_q = top_q + tl.log(sum_q)
        D, _ = row_sums(LOGITS, REF_LOGITS, V, lse_p, lse_q, scale, ref_scale, cap, ref_cap, numbers, TERMS, B, ACC)
    put(STATS, D, stride_out)
