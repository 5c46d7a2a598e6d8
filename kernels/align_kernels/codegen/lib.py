"""Elementwise functions as the kernels take them: exact to a few roundings in float32 and float64, and cheap on NVIDIA's hardware."""

import torch
import triton
import triton.language as tl
from triton import knobs

# The interpreter has no assembler, nor has another maker's compiler this one.
PTX = tl.constexpr(not knobs.runtime.interpret and torch.version.hip is None)


@triton.jit
def exp(x):
    return fast_exp2(x * 1.4426950408889634) if PTX and x.dtype == tl.float32 else tl.exp(x)


@triton.jit
def fast_exp2(x):
    """The hardware's, to 2^-22 of the value, of float32: results below 2^-126 are 0, for which Triton's own spends three instructions."""
    if PTX:  # noqa: SIM108 - a choice at compile time
        y = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = tl.exp2(x)
    return y


@triton.jit
def expm1(x):
    if x.dtype == tl.float64:
        # Kahan: the rounding of exp(x) is the same in both factors and cancels.
        u = tl.exp(x)
        y = tl.where(u == 1.0, x, tl.where(tl.abs(x) < 1.0, (u - 1.0) * (x / tl.log(u)), u - 1.0))
    else:
        # Taylor up to x^8/8! below 1/2: 2e-9 of the value.
        series = 1.0 / 720.0 + x * (1.0 / 5040.0 + x * (1.0 / 40320.0))
        series = 1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0 + x * series))
        y = tl.where(tl.abs(x) < 0.5, x + x * x * (0.5 + x * series), exp(x) - 1.0)
    return y


@triton.jit
def log1p(x):
    u = 1.0 + x
    if x.dtype == tl.float64:
        # Kahan, as above; where 1 + x is not rounded, or infinite, its logarithm is the answer.
        y = tl.where(u - 1.0 == x, tl.log(u), tl.where(u == 1.0, x, tl.log(u) * (x / (u - 1.0))))
    else:
        # Taylor up to x^10/10 below 1/4 (4e-8 of the value); beyond, the hardware's logarithm is as good.
        series = 1.0 / 7.0 + x * (-1.0 / 8.0 + x * (1.0 / 9.0 + x * (-1.0 / 10.0)))
        series = 1.0 / 3.0 + x * (-1.0 / 4.0 + x * (1.0 / 5.0 + x * (-1.0 / 6.0 + x * series)))
        y = tl.where(tl.abs(x) < 0.25, x + x * x * (-0.5 + x * series), fast_log2(u) * 0.6931471805599453)
    return y


@triton.jit
def fast_log2(x):
    """The hardware's, of a float32 that is no subnormal number: its error is absolute near x = 1, 2^-22, where log2 x itself nears 0."""
    if PTX:  # noqa: SIM108 - a choice at compile time
        y = tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = tl.log2(x)
    return y


@triton.jit
def fast_reciprocal(x):
    """The hardware's, to 2^-22 of the value, of a float32 that neither is a subnormal number nor has one for a reciprocal."""
    if PTX:  # noqa: SIM108 - a choice at compile time
        y = tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = 1.0 / x
    return y


@triton.jit
def tanh(x):
    t = expm1(-2.0 * tl.abs(x))
    return tl.where(x < 0.0, t, -t) / (t + 2.0)


@triton.jit
def sign(x):
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, 0.0)).to(x.dtype)


@triton.jit
def at_least(x, least):
    """max(x, least), and `least` where x is NaN."""
    # Hardware's maximum takes the number of the two; the interpreter's takes the NaN.
    return tl.maximum(x, least) if PTX else tl.where(x > least, x, least)


@triton.jit
def at_most(x, most):
    return tl.minimum(x, most) if PTX else tl.where(x < most, x, most)


@triton.jit
def opaque(x):
    """x, and LLVM cannot tell how it was made. The move costs nothing: the assembler takes it out.

    A loop's sums are where LLVM's SLP vectorizer begins. It puts those of two functions into one vector and follows both up through their
    operations; where they differ in the right way, that of Triton 3.7.1 ends the process with an assertion (two logarithms of a sum do).
    """
    if PTX and x.dtype == tl.float32:
        x = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    elif PTX and x.dtype == tl.float64:
        x = tl.inline_asm_elementwise("mov.b64 $0, $1;", "=d,d", [x], dtype=tl.float64, is_pure=True, pack=1)
    return x
