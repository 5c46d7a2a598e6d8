"""NVIDIA's approximate functions of float32 as they are at worst: their errors are documented, their values are not."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from align_kernels.codegen.nodes import OPERATIONS, Node, ordered

APPROXIMATE = ("exp", "fast_exp2", "fast_log2", "fast_reciprocal")
_ERROR = 2.0**-22


def off(node: Node, variable: Node, x: Tensor, signs: tuple[int, ...]) -> Tensor:
    """`node` in float32 with the hardware's functions as far off as they may be, to these sides in turn."""
    found, turns = {variable: x}, itertools.cycle(signs)
    for part in ordered((node,), found):
        if part.op == "constant":
            found[part] = x.new_tensor(part.value)
        elif part not in found:
            operands = [found[a] for a in part.args]
            if part.op in APPROXIMATE:
                y, error = _flushed(OPERATIONS[part.op].torch(_flushed(*operands))), next(turns) * _ERROR
                # Of a logarithm between 1/2 and 2 the error is absolute.
                y = torch.where((y.abs() < 1) & (part.op == "fast_log2"), y + error, y * (1 + error))
            else:
                y = OPERATIONS[part.op].torch(*operands)
            found[part] = y
    return found[node].expand_as(x)


def _flushed(x: Tensor) -> Tensor:
    """It takes no subnormal number, and gives none."""
    return torch.where(x.abs() < torch.finfo(x.dtype).tiny, 0.0, x)
