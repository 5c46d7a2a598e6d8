"""What each ATen operation is in the kernels' own: the list of what a user's function may call."""

from __future__ import annotations

import math

from align_kernels.codegen.expressions import Expressions
from align_kernels.codegen.nodes import Node

_SAME = {
    "neg",
    "abs",
    "sign",
    "exp",
    "expm1",
    "log",
    "log1p",
    "tanh",
    "sqrt",
    "sin",
    "cos",
    "erf",
    "where",
    "lt",
    "le",
    "gt",
    "ge",
    "eq",
    "ne",
}
_RENAMED = {
    "maximum": "max",
    "minimum": "min",
    "fmax": "max",
    "fmin": "min",
    "clamp_min": "max",
    "clamp_max": "min",
    "logical_and": "and",
    "logical_or": "or",
    "logical_not": "not",
    "bitwise_and": "and",
    "bitwise_or": "or",
    "bitwise_not": "not",
    "sgn": "sign",
}
_IDENTITIES = {"alias", "clone", "detach", "expand", "view", "lift_fresh_copy", "contiguous", "squeeze", "unsqueeze"}
_FILLS = {"full", "full_like", "scalar_tensor", "zeros_like", "ones_like", "zeros", "ones", "new_full", "new_zeros", "new_ones"}
_OF_ONE = {"square", "reciprocal", "rsqrt", "sigmoid", "relu", "exp2", "log2", "isnan", "_to_copy"}
_OF_TWO = {"add", "sub", "rsub", "mul", "div", "pow"}

ALLOWED = sorted((_SAME | set(_RENAMED) | _OF_ONE | _OF_TWO | {"clamp"}) - {"_to_copy", "sgn"})
REDUCTIONS = {
    "sum",
    "mean",
    "amax",
    "amin",
    "max",
    "min",
    "prod",
    "cumsum",
    "logsumexp",
    "_softmax",
    "_log_softmax",
    "any",
    "all",
    "var",
    "argmax",
    "sort",
    "topk",
    "norm",
    "linalg_vector_norm",
}


def convert(make: Expressions, op: str, args: list, kwargs: dict) -> Node | None:
    """The node of one ATen call, its tensors nodes already; None for an operation that is not in the table."""
    if op in _FILLS:
        fill = {"full": 1, "full_like": 1, "new_full": 2, "scalar_tensor": 0}.get(op)
        return make.constant(float("ones" in op) if fill is None else args[fill])
    if op == "clamp":
        low, high = (args[i] if len(args) > i else kwargs.get(name) for i, name in ((1, "min"), (2, "max")))
        return _clamp(make, args[0], low, high)
    nodes = [a if isinstance(a, Node) else make.constant(a) for a in args if not (a is None or isinstance(a, (list, tuple)))]
    if op in _IDENTITIES:
        return nodes[0]
    if op == "copy":
        return nodes[1]
    if op in _SAME or op in _RENAMED:
        return make(_RENAMED.get(op, op), *nodes)
    if op in _OF_TWO:
        return _of_two(make, op, nodes[0], nodes[1], kwargs)
    return _of_one(make, op, nodes[0]) if op in _OF_ONE else None


def _clamp(make: Expressions, x: Node, low: Node | float | None, high: Node | float | None) -> Node:
    x = x if low is None else make("max", x, low)
    return x if high is None else make("min", x, high)


def _of_two(make: Expressions, op: str, x: Node, y: Node, kwargs: dict) -> Node | None:
    match op:
        case "add" | "sub" | "rsub":
            scaled = make("mul", y, make.constant(kwargs.get("alpha", 1)))
            return make("sub", scaled, x) if op == "rsub" else make(op, x, scaled)
        case "mul":
            return make("mul", x, y)
        case "div":
            return make("div", x, y) if kwargs.get("rounding_mode") is None else None
        case "pow":
            return _power(make, x, y)
    return None


def _of_one(make: Expressions, op: str, x: Node) -> Node | None:
    one = make.constant(1.0)
    match op:
        case "square":
            return make("mul", x, x)
        case "reciprocal":
            return make("div", one, x)
        case "rsqrt":
            return make("div", one, make("sqrt", x))
        case "sigmoid":
            return make("div", one, make("add", make("exp", make("neg", x)), one))
        case "relu":
            return make("max", x, make.constant(0.0))
        case "exp2":
            return make("exp", make("mul", x, make.constant(math.log(2))))
        case "log2":
            return make("mul", make("log", x), make.constant(1 / math.log(2)))
        case "isnan":
            return make("ne", x, x)
        case "_to_copy":
            return make("where", x, one, make.constant(0.0)) if x.op in ("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not") else x
    return None


def _power(make: Expressions, base: Node, exponent: Node) -> Node:
    """A small whole power by products; exp(x)^c as exp(c x), which keeps the range; else through the logarithm (base > 0)."""
    c = exponent.number
    if c is not None and abs(c) <= 4 and c == int(c):
        if c < 0:
            return make("div", make.constant(1.0), _power(make, base, make.constant(-c)))
        result = make.constant(1.0)
        for _ in range(int(c)):
            result = make("mul", result, base)
        return result
    if base.op == "exp":
        return make("exp", make("mul", exponent, base.args[0]))
    return make("sqrt", base) if c == 0.5 else make("exp", make("mul", exponent, make("log", base)))
