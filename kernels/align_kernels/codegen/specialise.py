"""An expression of one variable, rewritten for a part of its range in float32.

A divergence's own formulas are written for every log u. Where they are evaluated on one side of the reference only, or away from it, most
of their case distinctions are not needed, and the hardware's functions, whose errors are absolute or whose range is not float32's, are
good enough. What is good enough is found by evaluating.

`ALIGN_KERNELS_REWRITE=0` leaves every formula as its author wrote it: what rewriting is worth is in tests/kernels/budgets.json.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from align_kernels.codegen import hardware
from align_kernels.codegen.expressions import Expressions, rebuilt
from align_kernels.codegen.nodes import Node, cost, ordered, values
from align_kernels.codegen.rewrites import distributed, ways

REWRITE = os.environ.get("ALIGN_KERNELS_REWRITE", "1") != "0"
_DIGITS = 5e-6
"""Relative error that a cheaper way may have, at worst: six bits of float32."""
_EXPONENT = 2.0**-23
"""The same for each nat of log u: its powers have no more digits than it has."""
_NEAR = 8.0
"""Nats. No formula needs a case distinction for its range there."""


def cheapest(make: Expressions, node: Node, variable: Node, domain: Tensor, most: float, given: Node) -> Node:
    """`node` with every choice decided and every operation made cheaper that may be, at all points of `domain`.

    `domain` is the variable's range in float64, densely sampled; results beyond +-most count as that. `given` is at hand anyway. Itself
    where REWRITE is off.
    """
    if not REWRITE:
        return node
    x = domain.float()
    exact = values((node,), {variable: x.double()}, domain)[node].clamp(-most, most)
    allowed = (_DIGITS + _EXPONENT * x.double().abs().clamp_max(100)) * exact.abs() + torch.finfo(x.dtype).tiny

    def holds(node: Node) -> bool:
        found = (hardware.off(node, variable, x, signs).clamp(-most, most).double() for signs in itertools.product((-1, 1), repeat=2))
        return all(((y - exact).abs() <= allowed).all() for y in found)

    def price(node: Node) -> int:
        return cost(node, given)

    # What a formula does for the sake of its range, at one end of the domain, may be what it can do everywhere, or need nowhere.
    near = domain.abs() <= _NEAR
    decided = [specialise(make, node, variable, part) for part in (domain[near], domain[~near], domain)]
    decided += [distributed(make, d, variable) for d in decided]
    best = min(filter(holds, decided), key=price, default=decided[2])
    tried = set()

    def better(way: Node, most: int) -> bool:
        """Asked once: `most` only falls."""
        if way in tried:
            return False
        tried.add(way)
        return price(way) < most and holds(way)

    while found := next(filter(functools.partial(better, most=price(best)), _rewritten(make, best, variable)), None):
        best = found
    # The same number comes about in several ways; float32 tells nine digits apart.
    return rebuilt(make, best, variable, lambda part, _: make.constant(float(f"{part.number:.9g}")) if part.number else None)


def specialise(make: Expressions, node: Node, variable: Node, domain: Tensor) -> Node:
    """`node` with every choice decided that is the same at all points of `domain`."""
    at = values((node,), {variable: domain}, domain)

    def decided(part: Node, operands: list[Node]) -> Node | None:
        first, last = (at[(part.args or (part,))[i]] for i in (0, -1))
        match part.op:
            case "where" if first.all() or not first.any():
                return operands[1 if first.all() else 2]
            case "max" | "min" if (first <= last).all() or (first >= last).all():
                return operands[bool((first <= last).all()) == (part.op == "max")]
            case "abs" if (first >= 0).all():
                return operands[0]
            case "abs" if (first <= 0).all():
                return make("neg", operands[0])
        return None

    return rebuilt(make, node, variable, decided)


def _rewritten(make: Expressions, node: Node, variable: Node) -> Iterator[Node]:
    """`node` with one of its parts done in another way."""
    for part in ordered((node,), (variable,)):
        for way in ways(make, part):
            if way is not part:
                yield rebuilt(make, node, variable, lambda old, _, part=part, way=way: way if old is part else None)
