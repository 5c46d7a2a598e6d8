"""Matrix products with half-precision operands and float32 results.

Rounding logits to bfloat16 makes an exact divergence near the reference wrong by several times its size, so the product is never
rounded: on CUDA the GEMM writes its float32 accumulator out, elsewhere the operands are widened, a block at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision; the type itself otherwise."""
    return torch.float32 if dtype in HALF else dtype


def product(a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    """a [n, k] @ b [k, m] in the accumulator's type, [n, m]; into `out`, if given."""
    if a.dtype not in HALF:
        return torch.mm(a, b, out=out)
    return torch.mm(a, b, out_dtype=torch.float32, out=out) if a.is_cuda else torch.mm(a.float(), b.float(), out=out)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`total` [n, m] += a [n, k] @ b [k, m], in the accumulator's type; returns it."""
    if a.dtype not in HALF:
        return total.addmm_(a, b)
    if a.is_cuda:
        # A float32 summand beside half-precision factors: since torch 2.10 (pytorch#167931).
        return torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    return total.addmm_(a.float(), b.float())


def logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, elements: int) -> Tensor:
    """hidden [T, H] @ weight [V, H]^T + bias [V] -> [T, V] in `dtype`, the accumulator's or the operands' own.

    `elements`: how many of the weights may be widened at once where the device cannot keep its accumulator.
    """
    if dtype == hidden.dtype:
        return torch.nn.functional.linear(hidden, weight, bias)
    if hidden.is_cuda:
        z = product(hidden, weight.T)
        return z if bias is None else z.add_(bias)
    z = hidden.new_empty(len(hidden), len(weight), dtype=dtype)
    wide, rows = hidden.to(dtype), max(1, elements // hidden.shape[1])
    for i in range(0, len(weight), rows):
        torch.mm(wide, weight[i : i + rows].to(dtype).T, out=z[:, i : i + rows])
    return z if bias is None else z.add_(bias)
