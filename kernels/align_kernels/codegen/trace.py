"""From a torch function, its autograd included, to a graph of expressions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from align_kernels.codegen import aten
from align_kernels.codegen.errors import DivergenceError, blamed_on, line_of, name_of
from align_kernels.codegen.expressions import Expressions
from align_kernels.codegen.nodes import Node


class Traced(NamedTuple):
    """A function's operations, to be put into graphs of expressions at one input or another."""

    graph: torch.fx.GraphModule
    function: Callable[..., Tensor | tuple[Tensor, ...]]
    arguments: tuple[Tensor, ...]
    blame: object

    def at(self, make: Expressions, inputs: tuple[Node, ...]) -> tuple[Node, ...]:
        """The outputs at `inputs`. Raises DivergenceError as `trace` does."""
        placeholders = iter(inputs)
        nodes: dict[torch.fx.Node, Node] = {}
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                nodes[node] = next(placeholders)
            elif node.op == "get_attr":
                nodes[node] = _constant(make, getattr(self.graph, node.target), self.blame)
            elif node.op == "call_function":
                op = node.target.overloadpacket.__name__
                converted = aten.convert(make, op, [nodes[a] if isinstance(a, torch.fx.Node) else a for a in node.args], node.kwargs)
                if converted is None:
                    raise _unknown(op, self.blame, line_of(self.function, self.arguments, op))
                nodes[node] = converted
        self._stop_unless_elementwise()
        (output,) = (n for n in self.graph.graph.nodes if n.op == "output")
        return tuple(nodes[o] for o in _as_tuple(output.args[0]))

    def _stop_unless_elementwise(self) -> None:
        shape, results = self.arguments[0].shape, _as_tuple(self.graph(*self.arguments))
        if any(not isinstance(r, Tensor) or r.shape not in (shape, ()) for r in results):
            found = " and ".join(str(list(r.shape)) if isinstance(r, Tensor) else type(r).__name__ for r in results)
            raise DivergenceError(
                f"{name_of(self.blame)} returns {found} for tensors of shape {list(shape)}; it must be elementwise: "
                "one tensor of the same shape"
            )


def traced(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    tensors: int = 1,
    *,
    blame: object,
    numbers: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Traced:
    """`function` of so many tensors of one shape, and so many 0-d ones after them.

    Raises DivergenceError with the line of `blame`, the user's object, where it asks for a tensor's value or fails.
    """
    # Each a tensor of its own: the tracer tells its inputs apart by identity.
    arguments = [torch.linspace(-0.6, -0.1, 5, dtype=dtype) for _ in range(tensors)]
    arguments += [torch.tensor(0.5, dtype=dtype) for _ in range(numbers)]
    with blamed_on(blame):
        # make_fx reads the signature, which it gets wrong for a bound method.
        # torch annotates the parameter with a narrower key than its own table has.
        tracer = make_fx(lambda *tensors: function(*tensors), decomposition_table=_decompositions())  # pyright: ignore[reportArgumentType]
        graph = tracer(*arguments)
        if any(isinstance(n.target, torch._ops.OpOverload) and n.target._schema.is_mutable for n in graph.graph.nodes):
            # autograd writes some of its formulas in place; a second trace without in-place operations undoes that.
            graph = make_fx(torch.func.functionalize(graph))(*arguments)
    graph.graph.eliminate_dead_code()
    return Traced(graph, function, tuple(arguments), blame)


def trace(
    make: Expressions,
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: tuple[Node, ...],
    *,
    blame: object,
    numbers: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Node, ...]:
    """The outputs of `function` at `inputs`: tensors of one shape, but for the last `numbers` of them, which are 0-d.

    Raises DivergenceError with the line of `blame`, the user's object, where an operation is not elementwise or not known.
    """
    return traced(function, len(inputs) - numbers, blame=blame, numbers=numbers, dtype=dtype).at(make, inputs)


def _as_tuple(outputs: object) -> tuple:
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


def _constant(make: Expressions, tensor: Tensor, blame: object) -> Node:
    if tensor.numel() != 1:
        raise DivergenceError(f"{name_of(blame)} holds a tensor of shape {list(tensor.shape)}; only numbers can be part of a kernel")
    return make.constant(tensor.item())


_decompositions = functools.cache(core_aten_decompositions)


def _unknown(op: str, blame: object, line: str) -> DivergenceError:
    where = f"{line or name_of(blame)}: {name_of(blame)} cannot become a kernel; "
    if op in aten.REDUCTIONS:
        return DivergenceError(
            f"{where}`{op}` joins several elements, but the function must be elementwise: the kernel itself takes the "
            "sum over the vocabulary, of the value at each token"
        )
    return DivergenceError(f"{where}`{op}` has no form in it. These have: {', '.join(aten.ALLOWED)}")
