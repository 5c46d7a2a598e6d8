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
def row_sums(Z, U, V, lse_p, lse_q, scale_z, scale_u, cap_z, cap_u, numbers, TERMS: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr):
    """(sum of terms, sum of pulls) of a row of V pairs."""
    terms = tl.zeros([B], ACC)
    pulls = tl.zeros([B], ACC)
    cols = tl.arange(0, B)
    whole = V - V % B
    for start in range(0, whole, B):
        a, b, d, p, q = load_pair(Z, U, start + cols, None, lse_p, lse_q, scale_z, scale_u, cap_z, cap_u, ACC)
        term, pull = _terms(a, b, d, p, q, numbers, TERMS)
        terms += term
        pulls += pull
    if whole < V:
        cols += whole
        a, b, d, p, q = load_pair(Z, U, cols, cols < V, lse_p, lse_q, scale_z, scale_u, cap_z, cap_u, ACC)
        term, pull = _terms(a, b, d, p, q, numbers, TERMS)
        terms += tl.where(cols < V, term, 0.0)
        pulls += tl.where(cols < V, pull, 0.0)
    return tl.sum(terms, axis=0), tl.sum(pulls, axis=0)


@triton.jit(do_not_specialize=["stride_out"])
def row_sum_kernel(
    Z,
    U,
    LSE_P,
    LSE_Q,
    OUT,
    V,
    stride_z,
    stride_u,
    stride_out,
    scale_z,
    scale_u,
    cap_z,
    cap_u,
    numbers,
    TERMS: tl.constexpr,
    B: tl.constexpr,
    ACC: tl.constexpr,
):
    """One program a row; OUT [2, T]: sum of terms, sum of pulls."""
    row = tl.program_id(0).to(tl.int64)
    Z += row * stride_z
    U += row * stride_u
    lse_p = tl.load(LSE_P + row)
    lse_q = tl.load(LSE_Q + row)

    terms, pulls = row_sums(Z, U, V, lse_p, lse_q, scale_z, scale_u, cap_z, cap_u, numbers, TERMS, B, ACC)
    tl.store(OUT + row, terms)
    tl.store(OUT + stride_out + row, pulls)
