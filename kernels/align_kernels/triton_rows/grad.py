"""Pass 3: the gradient of log-prob, entropy and divergence together, with respect to the logits as they came."""

# pyright: reportGeneralTypeIssues=false
# Triton annotates a jitted function as one that never returns to its caller.
import triton
import triton.language as tl

from align_kernels.codegen import lib
from align_kernels.triton_rows.load import load_logits, load_pair, log_prob


@triton.jit
def _tile(
    LOGITS,
    REF_LOGITS,
    GRAD,
    cols,
    mask,
    label,
    lse_p,
    lse_q,
    w_logp,
    w_entropy,
    w_div,
    shared,
    scale,
    ref_scale,
    cap,
    ref_cap,
    numbers,
    PULL: tl.constexpr,
    ADD: tl.constexpr,
    ACC: tl.constexpr,
):
    """dz = scale [ w_div pull + w_logp 1[y] - p (shared + w_entropy log p) ]: every weight of p alone is in `shared`."""
    if PULL is not None:
        a, b, d, p, q = load_pair(LOGITS, REF_LOGITS, cols, mask, lse_p, lse_q, scale, ref_scale, cap, ref_cap, ACC)
        g = w_div * PULL(a, b, d, p, q, numbers)
    else:
        a = log_prob(load_logits(LOGITS, cols, mask, scale, cap, ACC), lse_p, ACC)
        p = lib.exp(a)
        g = tl.zeros_like(p)
    if w_entropy is not None:
        # p log p is 0 where p is, but 0 * -inf is not.
        shared += w_entropy * tl.maximum(a, -1e30)
    g = scale * (g + tl.where(cols == label, w_logp, 0.0) - p * shared)
    if cap is not None:
        t = (a + lse_p.to(ACC)) / (scale * cap)
        g *= 1.0 - t * t
    if ADD:
        g += tl.load(GRAD + cols, mask=mask).to(ACC)
    tl.store(GRAD + cols, g.to(GRAD.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["first"])
def row_grad_kernel(
    LOGITS,
    REF_LOGITS,
    LSE_P,
    LSE_Q,
    LABELS,
    ENTROPY,
    PULLS,
    W_LOGP,
    W_ENTROPY,
    W_DIV,
    GRAD,
    V,
    stride,
    stride_ref,
    stride_grad,
    first,
    scale,
    ref_scale,
    cap,
    ref_cap,
    numbers,
    PULL: tl.constexpr,
    ADD: tl.constexpr,
    B: tl.constexpr,
    ACC: tl.constexpr,
):
    """One program a row. PULL None: no divergence, REF_LOGITS, LSE_Q, PULLS and W_DIV are None."""
    row = tl.program_id(0).to(tl.int64)
    lse_p = tl.load(LSE_P + row)
    lse_q = lse_p
    w_logp = 0.0
    w_entropy = None
    w_div = 0.0
    shared = lse_p.to(ACC) * 0.0
    label = -1
    if W_LOGP is not None:
        w_logp = tl.load(W_LOGP + row).to(ACC)
        # Outside this shard no column has it, and the softmax's own part, -p w, remains.
        label = tl.load(LABELS + row) - first
        shared += w_logp
    if W_ENTROPY is not None:
        w_entropy = tl.load(W_ENTROPY + row).to(ACC)
        shared += w_entropy * tl.load(ENTROPY + row)
    if PULL is not None:
        REF_LOGITS += row * stride_ref
        lse_q = tl.load(LSE_Q + row)
        w_div = tl.load(W_DIV + row).to(ACC)
        shared += w_div * tl.load(PULLS + row)
    LOGITS += row * stride
    GRAD += row * stride_grad

    cols = tl.arange(0, B)
    whole = V - V % B
    for start in range(0, whole, B):
        _tile(
            LOGITS,
            REF_LOGITS,
            GRAD,
            start + cols,
            None,
            label,
            lse_p,
            lse_q,
            w_logp,
            w_entropy,
            w_div,
            shared,
            scale,
            ref_scale,
            cap,
            ref_cap,
            numbers,
            PULL,
            ADD,
            ACC,
        )
    if whole < V:
        cols += whole
        _tile(
            LOGITS,
            REF_LOGITS,
            GRAD,
            cols,
            cols < V,
            label,
            lse_p,
            lse_q,
            w_logp,
            w_entropy,
            w_div,
            shared,
            scale,
            ref_scale,
            cap,
            ref_cap,
            numbers,
            PULL,
            ADD,
            ACC,
        )
