"""Logits as every row kernel reads them. What is None here (a mask, a cap, a whole tensor) is known so when the kernel is compiled."""

import triton
import triton.language as tl

from align_kernels.codegen import lib


@triton.jit
def load_logits(LOGITS, cols, mask, scale, cap, ACC: tl.constexpr):
    """scale * cap * tanh(z / cap) in ACC, -inf where masked out."""
    # At once in the accumulator's type: 16-bit arithmetic is never meant, and the interpreter has none for bfloat16.
    if mask is None:  # noqa: SIM108 - a choice at compile time
        x = tl.load(LOGITS + cols).to(ACC)
    else:
        x = tl.load(LOGITS + cols, mask=mask, other=-float("inf")).to(ACC)
    if cap is not None:
        x = cap * lib.tanh(x / cap)
        if mask is not None:
            x = tl.where(mask, x, -float("inf"))
    return x * scale


@triton.jit
def load_pair(LOGITS, REF_LOGITS, cols, mask, lse_p, lse_q, scale, ref_scale, cap, ref_cap, ACC: tl.constexpr):
    """A tile of both distributions: a = log p, b = log q, the accurate d = log p/q, p and q."""
    x = load_logits(LOGITS, cols, mask, scale, cap, ACC)
    y = load_logits(REF_LOGITS, cols, mask, ref_scale, ref_cap, ACC)
    a = log_prob(x, lse_p, ACC)
    b = log_prob(y, lse_q, ACC)
    # Not a - b: their rounding, that of a logit, is no smaller than d itself is near the reference.
    d = (x - y) - (lse_p - lse_q).to(ACC)
    return a, b, d, lib.exp(a), lib.exp(b)


@triton.jit
def log_prob(x, lse, ACC: tl.constexpr):
    """x - lse to the digits of the difference, where lse has more of them than ACC."""
    high = lse.to(ACC)
    a = x - high
    if lse.dtype != ACC:
        a -= (lse - high).to(ACC)
    return a
