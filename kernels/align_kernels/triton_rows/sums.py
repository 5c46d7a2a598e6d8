"""Pass 2: the divergence of each row and the sum of its pulls."""

# pyright: reportGeneralTypeIssues=false
# Triton annotates a jitted function as one that never returns to its caller.
import triton
import triton.language as tl

from align_kernels.codegen import lib
from align_kernels.triton_rows.load import load_pair


@triton.jit
def _terms(a, b, d, p, q, numbers, TERMS: tl.constexpr):
    term, pull = TERMS(a, b, d, p, q, numbers)
    # Two functions of a user's, added up side by side.
    return lib.opaque(term), lib.opaque(pull)


@triton.jit
def row_sums(
    LOGITS, REF_LOGITS, V, lse_p, lse_q, scale, ref_scale, cap, ref_cap, numbers, TERMS: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr
):
    """(sum of terms, sum of pulls) of a row of V pairs."""
    terms = tl.zeros([B], ACC)
    pulls = tl.zeros([B], ACC)
    cols = tl.arange(0, B)
    whole = V - V % B
    for start in range(0, whole, B):
        a, b, d, p, q = load_pair(LOGITS, REF_LOGITS, start + cols, None, lse_p, lse_q, scale, ref_scale, cap, ref_cap, ACC)
        term, pull = _terms(a, b, d, p, q, numbers, TERMS)
        terms += term
        pulls += pull
    if whole < V:
        cols += whole
        a, b, d, p, q = load_pair(LOGITS, REF_LOGITS, cols, cols < V, lse_p, lse_q, scale, ref_scale, cap, ref_cap, ACC)
        term, pull = _terms(a, b, d, p, q, numbers, TERMS)
        terms += tl.where(cols < V, term, 0.0)
        pulls += tl.where(cols < V, pull, 0.0)
    return tl.sum(terms, axis=0), tl.sum(pulls, axis=0)


@triton.jit(do_not_specialize=["stride_out"])
def row_sum_kernel(
    LOGITS,
    REF_LOGITS,
    LSE_P,
    LSE_Q,
    SUMS,
    V,
    stride,
    stride_ref,
    stride_out,
    scale,
    ref_scale,
    cap,
    ref_cap,
    numbers,
    TERMS: tl.constexpr,
    B: tl.constexpr,
    ACC: tl.constexpr,
):
    """One program a row; SUMS [2, T]: sum of terms, sum of pulls."""
    row = tl.program_id(0).to(tl.int64)
    LOGITS += row * stride
    REF_LOGITS += row * stride_ref
    lse_p = tl.load(LSE_P + row)
    lse_q = tl.load(LSE_Q + row)

    terms, pulls = row_sums(LOGITS, REF_LOGITS, V, lse_p, lse_q, scale, ref_scale, cap, ref_cap, numbers, TERMS, B, ACC)
    tl.store(SUMS + row, terms)
    tl.store(SUMS + stride_out + row, pulls)
