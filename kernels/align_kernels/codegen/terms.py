"""What the kernels sum over the vocabulary, as expressions of a tile.

`term` and `pull` of a = log p, b = log q (nats), p and q, and d = log p - log q taken as (z - ref_z) - (lse_p - lse_q), in which the
rounding of two large numbers cancels. `pull` is dterm/da at fixed b. An outcome impossible under both (a and b -inf, d NaN) contributes 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from align_kernels.by_f import value_and_slope
from align_kernels.codegen.expressions import Expressions
from align_kernels.codegen.nodes import Node
from align_kernels.codegen.trace import trace

ARGUMENTS = ("a", "b", "d", "p", "q")
FLOOR = -80.0
"""Of the log-probs an `Elementwise` sees, nats: e^-80 = 2e-35, and no 0 * inf."""


class Terms(NamedTuple):
    term: Node
    pull: Node
    """Written so that it shares the most with the term."""
    term_alone: Node
    """The same, for a pass that has no pull."""
    pull_alone: Node


def elementwise_terms(phi: Callable[..., Tensor], params: int, dtype: torch.dtype, blame: object) -> Terms:
    """Any phi(a, b, *params) as written, and its derivative in a."""
    make = Expressions()
    a, b = (make("max", make.input(name), FLOOR) for name in "ab")
    at_floor = make("or", make("eq", a, FLOOR), make("eq", b, FLOOR))
    d = make("where", at_floor, make("sub", a, b), make.input("d"))
    # Where phi takes a - b, it finds a - (a - d), which is the accurate d itself.
    inputs = (a, make("sub", a, d), *(make.input(f"p{i}") for i in range(params)))
    term, pull = trace(make, lambda a, *rest: value_and_slope(lambda a: phi(a, *rest), a), inputs, blame=blame, numbers=params, dtype=dtype)
    return Terms(term, pull, term, pull)


def tiles(x: Tensor) -> dict[str, Tensor]:
    """Both sides of tokens at log u = x, the likelier of the two having probability 1."""
    a, b = x.clamp_max(0.0), (-x).clamp_max(0.0)
    return dict(zip(ARGUMENTS, (a, b, x, a.exp(), b.exp()), strict=True))
