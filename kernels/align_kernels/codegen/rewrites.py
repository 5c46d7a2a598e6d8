"""Other ways to write a part of an expression. Each is right for real numbers; whether it is in float32 depends on the range."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

from align_kernels.codegen.expressions import Expressions, rebuilt
from align_kernels.codegen.nodes import Node

_LOG2 = math.log(2)


def ways(make: Expressions, node: Node) -> Iterator[Node]:
    match node.op:
        case "expm1":
            yield make("sub", make("exp", node.args[0]), 1.0)
        case "log1p":
            yield make("mul", _LOG2, make("fast_log2", make("add", node.args[0], 1.0)))
        case "log":
            yield make("mul", _LOG2, make("fast_log2", node.args[0]))
        case "div":
            yield make("mul", node.args[0], make("fast_reciprocal", node.args[1]))
        case "exp":
            yield _product(make, node.args[0])
            yield make("fast_reciprocal", make("exp", make("neg", node.args[0])))
            yield make("fast_exp2", make("mul", 1 / _LOG2, node.args[0]))
        case "add" | "sub" | "mul":
            yield _sum(make, _summands(node))


def _product(make: Expressions, exponent: Node) -> Node:
    """exp of a sum: exp(c + x + log1p(y) - log1p(z)) = e^c exp(x) (1 + y)/(1 + z)."""
    constant, factor, rest = 1.0, make.constant(1.0), {}
    for part, coefficient in _summands(exponent).items():
        if part.number is not None:
            constant *= math.exp(part.number * coefficient)
        elif part.op in ("log1p", "fast_log2") and abs(coefficient) == (1.0 if part.op == "log1p" else _LOG2):
            power = make("add", part.args[0], 1.0) if part.op == "log1p" else part.args[0]
            factor = make("mul", factor, power if coefficient > 0 else make("fast_reciprocal", power))
        else:
            rest[part] = coefficient
    return make("mul", constant, make("mul", factor, make("exp", _sum(make, rest))))


def _summands(node: Node, factor: float = 1.0) -> dict[Node, float]:
    """A sum's parts, each with the number it is multiplied by."""
    if node.op == "neg":
        return _summands(node.args[0], -factor)
    if node.op == "mul" and node.args[0].number is not None:
        return _summands(node.args[1], factor * node.args[0].number)
    if node.op not in ("add", "sub"):
        return {node: factor}
    found = _summands(node.args[0], factor)
    for part, coefficient in _summands(node.args[1], -factor if node.op == "sub" else factor).items():
        found[part] = found.get(part, 0.0) + coefficient
    return found


def _sum(make: Expressions, summands: dict[Node, float]) -> Node:
    constant, result = 0.0, make.constant(0.0)
    for part, coefficient in summands.items():
        if part.number is not None:
            constant += coefficient * part.number
        elif coefficient:
            result = make("add" if coefficient > 0 else "sub", result, make("mul", abs(coefficient), part))
    return make("add", constant, result)


def distributed(make: Expressions, node: Node, variable: Node) -> Node:
    """`node` with every exp(x) (y + z) as exp(x) y + exp(x) z: there powers of u join and cancel, and none need overflow."""

    @functools.cache
    def times(x: Node, node: Node) -> Node:
        """exp(x) * node. A part that is there twice is looked at once: in a chain of them there are 2^n ways down."""
        match node.op:
            case "add" | "sub" | "neg":
                return make(node.op, *(times(x, a) for a in node.args))
            case "mul":
                inner = 0 if node.args[0].op in ("exp", "expm1") else 1
                return make("mul", node.args[1 - inner], times(x, node.args[inner]))
            case "exp":
                return make("exp", _sum(make, _summands(make("add", x, node.args[0]))))
            case "expm1":
                return make("sub", times(x, make("exp", node.args[0])), make("exp", x))
        return make("mul", make("exp", x), node)

    def change(part: Node, operands: list[Node]) -> Node | None:
        if part.op != "mul" or "exp" not in (a.op for a in operands):
            return None
        power, other = operands if operands[0].op == "exp" else operands[::-1]
        return times(power.args[0], other)

    return rebuilt(make, node, variable, change)
