"""A graph of elementwise operations: what a node may do, in Triton and in torch. The first is emitted, the second evaluates the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Operation(NamedTuple):
    triton: str
    torch: Callable[..., Tensor]
    cost: int = 1
    """Instructions, about."""


OPERATIONS = {
    "neg": Operation("-{0}", torch.neg, 0),
    "abs": Operation("tl.abs({0})", torch.abs, 0),
    "sign": Operation("lib.sign({0})", torch.sign, 4),
    "exp": Operation("lib.exp({0})", torch.exp, 2),
    "fast_exp2": Operation("lib.fast_exp2({0})", torch.exp2),
    "expm1": Operation("lib.expm1({0})", torch.expm1, 12),
    "log": Operation("tl.log({0})", torch.log, 25),
    "fast_log2": Operation("lib.fast_log2({0})", torch.log2),
    "log1p": Operation("lib.log1p({0})", torch.log1p, 14),
    "tanh": Operation("lib.tanh({0})", torch.tanh, 25),
    "sqrt": Operation("tl.sqrt({0})", torch.sqrt),
    "sin": Operation("tl.sin({0})", torch.sin, 14),
    "cos": Operation("tl.cos({0})", torch.cos, 14),
    "erf": Operation("tl.erf({0})", torch.erf, 28),
    "add": Operation("{0} + {1}", torch.add),
    "sub": Operation("{0} - {1}", torch.sub),
    "mul": Operation("{0} * {1}", torch.mul),
    "div": Operation("{0} / {1}", torch.div, 7),
    "fast_reciprocal": Operation("lib.fast_reciprocal({0})", torch.reciprocal),
    "max": Operation("tl.maximum({0}, {1})", torch.maximum),
    "min": Operation("tl.minimum({0}, {1})", torch.minimum),
    "at_least": Operation("lib.at_least({0}, {1})", torch.fmax),
    "at_most": Operation("lib.at_most({0}, {1})", torch.fmin),
    "where": Operation("tl.where({0}, {1}, {2})", torch.where),
    "lt": Operation("{0} < {1}", torch.lt),
    "le": Operation("{0} <= {1}", torch.le),
    "gt": Operation("{0} > {1}", torch.gt),
    "ge": Operation("{0} >= {1}", torch.ge),
    "eq": Operation("{0} == {1}", torch.eq),
    "ne": Operation("{0} != {1}", torch.ne),
    "and": Operation("{0} & {1}", torch.logical_and),
    "or": Operation("{0} | {1}", torch.logical_or),
    "not": Operation("{0} == 0", torch.logical_not),
}


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """`op` of `args`; an input has its name, a constant its number. Equal nodes of one graph are the same object (see Expressions)."""

    op: str
    args: tuple[Node, ...]
    serial: int
    value: float | str | None = None

    @property
    def number(self) -> float | None:
        return self.value if isinstance(self.value, float) else None


def ordered(outputs: tuple[Node, ...], known: Collection[Node] = ()) -> list[Node]:
    """Every node the outputs need, operands first; of what is known only itself."""
    seen: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if node not in seen:
            for argument in () if node in known else node.args:
                visit(argument)
            seen[node] = None

    for output in outputs:
        visit(output)
    return list(seen)


def cost(*outputs: Node) -> int:
    """Instructions for all of them together, about."""
    nodes = ordered(outputs)
    uses = Counter(a for n in nodes for a in n.args)

    def free(node: Node) -> bool:
        """A sum that is part of a product's instruction, or a choice that one of its operands' takes with it."""
        if node.op in ("add", "sub"):
            return any(a.op == "mul" and uses[a] == 1 for a in node.args)
        return node.op == "where" and any(OPERATIONS[a.op].cost and uses[a] == 1 for a in node.args[1:] if a.args)

    return sum(OPERATIONS[n.op].cost for n in nodes if n.args and not free(n))


def values(outputs: tuple[Node, ...], known: dict[Node, Tensor], like: Tensor) -> dict[Node, Tensor]:
    """Every node the outputs need, in torch, from some that are known; numbers are of the type of `like`."""
    found = dict(known)
    for node in ordered(outputs, known):
        if node.op == "constant":
            found[node] = like.new_tensor(node.value)
        elif node not in found:
            found[node] = OPERATIONS[node.op].torch(*(found[a] for a in node.args))
    return found


def evaluate(outputs: tuple[Node, ...], inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The outputs in torch, of the shape and type of the first input."""
    like = next(iter(inputs.values()))
    found = values(outputs, {n: inputs[n.value] for n in ordered(outputs) if isinstance(n.value, str)}, like)
    return tuple(found[o].expand_as(like) for o in outputs)
