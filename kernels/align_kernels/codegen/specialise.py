"""An expression of one variable, rewritten for a part of its range.

A divergence's own formulas are written for every log u. Where they are evaluated on one side of the reference only, or away from it, most
of their case distinctions are decided, and expm1 is exp - 1.
"""

from __future__ import annotations

from torch import Tensor

from align_kernels.codegen.expressions import Expressions
from align_kernels.codegen.nodes import Node, values

PLAIN_EXPM1 = 0.25
"""exp(x) - 1 loses at most two bits for |x| above this."""


def specialise(make: Expressions, node: Node, variable: Node, domain: Tensor) -> Node:
    """`node` with every choice decided that is the same at all points of `domain`, the variable's range in float64, densely sampled."""
    at = values((node,), {variable: domain}, domain)
    done = {variable: variable}

    def rewrite(node: Node) -> Node:
        if node not in done:
            chosen = _chosen(node, [at[a] for a in node.args])
            if chosen is not None:
                done[node] = rewrite(chosen)
            elif node.op == "abs" and (at[node.args[0]] <= 0).all():
                done[node] = make("neg", rewrite(node.args[0]))
            elif node.op == "expm1" and (at[node.args[0]].abs() >= PLAIN_EXPM1).all():
                done[node] = make("sub", make("exp", rewrite(node.args[0])), 1.0)
            else:
                done[node] = make(node.op, *map(rewrite, node.args)) if node.args else node
        return done[node]

    return rewrite(node)


def _chosen(node: Node, at: list[Tensor]) -> Node | None:
    """The operand that a choice takes everywhere."""
    match node.op:
        case "where" if at[0].all() or not at[0].any():
            return node.args[1 if at[0].all() else 2]
        case "max" | "min" if (at[0] <= at[1]).all() or (at[0] >= at[1]).all():
            first_is_less = bool((at[0] <= at[1]).all())
            return node.args[first_is_less == (node.op == "max")]
        case "abs" if (at[0] >= 0).all():
            return node.args[0]
    return None
