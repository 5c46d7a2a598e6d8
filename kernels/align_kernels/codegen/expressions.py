"""How the graph is built: equal parts are one node, and what simplifies does so at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from align_kernels.codegen.nodes import OPERATIONS, Node, ordered

_COMMUTE = {"add", "mul", "max", "min", "and", "or", "eq", "ne"}


class _Sum(NamedTuple):
    """constant + sign * rest."""

    constant: float
    sign: int
    rest: Node | None


class Expressions:
    """Makes nodes, each once. Constants come first and are gathered, signs go outside: to within a rounding the value is as written."""

    def __init__(self):
        self._nodes: dict[tuple, Node] = {}

    def input(self, name: str) -> Node:
        return self._unique("input", (), name)

    def constant(self, value: float) -> Node:
        return self._unique("constant", (), float(value))

    def __call__(self, op: str, *args: Node | float) -> Node:
        """The node, or a simpler one."""
        args = tuple(a if isinstance(a, Node) else self.constant(a) for a in args)
        numbers = [a.number for a in args]
        known = [n for n in numbers if n is not None]
        if len(known) == len(args):
            return self.constant(OPERATIONS[op].torch(*_operands(op, known)).item())
        if op in _COMMUTE and (args[0].number is None, args[0].serial) > (args[1].number is None, args[1].serial):
            args, numbers = args[::-1], numbers[::-1]
        return self._simpler(op, args, numbers) or self._unique(op, args)

    def _unique(self, op: str, args: tuple[Node, ...], value: float | str | None = None) -> Node:
        # -0.0 == 0.0, but they are two numbers.
        key = (op, *(a.serial for a in args), value, math.copysign(1, value) if isinstance(value, float) else 0)
        return self._nodes.setdefault(key, Node(op, args, len(self._nodes), value))

    def _simpler(self, op: str, args: tuple[Node, ...], numbers: list[float | None]) -> Node | None:
        first, last, number = args[0], args[-1], numbers[0]
        match op:
            case "add" | "sub" | "neg":
                return self._sum(op, args)
            case "where" if number is not None or args[1] is args[2]:
                return args[1] if number != 0.0 else args[2]
            case "and" | "or" if number is not None:
                return last if bool(number) == (op == "and") else first
            case "abs" if first.op == "neg":
                return self("abs", first.args[0])
            case "exp" if first.op == "log1p":
                return self("add", 1.0, first.args[0])
            case "exp" if first.op == "add" and first.args[0].number is not None and first.args[1].op == "log1p":
                return self("mul", math.exp(first.args[0].number), self("exp", first.args[1]))
            case "div" if last.number is not None:
                return self("mul", 1 / last.number, first)
            case "mul" if number in (1.0, -1.0):
                return last if number == 1.0 else self("neg", last)
            case "mul" if number is not None and last.op == "neg":
                return self("mul", -number, last.args[0])
            case "mul" if number is not None and last.op == "mul" and last.args[0].number is not None:
                return self("mul", number * last.args[0].number, last.args[1])
        return None

    def _sum(self, op: str, args: tuple[Node, ...]) -> Node | None:
        first, last = args[0], args[-1]
        if op == "neg":
            return self("sub", *first.args[::-1]) if first.op == "sub" else first.args[0] if first.op == "neg" else None
        if op == "sub" and last.op == "sub" and last.args[0] is first:
            return last.args[1]
        if op == "sub" and first.op == "sub" and first.args[0] is last:
            return self("neg", first.args[1])
        one, other = _parts(first), _parts(last)
        if op == "sub":
            other = _Sum(-other.constant, -other.sign, other.rest)
        if one.rest is None or other.rest is None:
            constant = one.constant + other.constant
            _, sign, rest = one if other.rest is None else other
            assert rest is not None  # A sum of two numbers is folded before it comes here.
            if constant == 0.0:
                return rest if sign > 0 else self("neg", rest)
            return self._unique("add" if sign > 0 else "sub", (self.constant(constant), rest))
        if last.op == "neg":
            return self("sub" if op == "add" else "add", first, last.args[0])
        return self("sub", last, first.args[0]) if op == "add" and first.op == "neg" else None


def rebuilt(make: Expressions, node: Node, variable: Node, change: Callable[[Node, list[Node]], Node | None]) -> Node:
    """`node` from its operands up: each part what `change` makes of it and its new operands, or else as it was, of these."""
    done = {variable: variable}
    for part in ordered((node,), done):
        if part not in done:
            operands = [done[a] for a in part.args]
            done[part] = change(part, operands) or (make(part.op, *operands) if operands else part)
    return done[node]


def _parts(node: Node) -> _Sum:
    if node.number is not None:
        return _Sum(node.number, 1, None)
    if node.op == "neg":
        return _Sum(0.0, -1, node.args[0])
    if node.op in ("add", "sub") and node.args[0].number is not None:
        return _Sum(node.args[0].number, 1 if node.op == "add" else -1, node.args[1])
    return _Sum(0.0, 1, node)


def _operands(op: str, numbers: list[float]) -> list[Tensor]:
    tensors = [torch.tensor(n, dtype=torch.float64) for n in numbers]
    return [t != 0 if op in ("and", "or", "not") or (op == "where" and i == 0) else t for i, t in enumerate(tensors)]
