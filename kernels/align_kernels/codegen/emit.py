"""Triton source of the traced terms, one operation a line."""

from __future__ import annotations

import torch

from align_kernels.codegen.nodes import OPERATIONS, Node, ordered
from align_kernels.codegen.terms import ARGUMENTS, Terms

_HEADER = '''"""Written by align_kernels."""

import triton
import triton.language as tl

from align_kernels.codegen import lib
'''


def emit(terms: Terms, params: int, dtype: torch.dtype) -> str:
    """A module with `terms(a, b, d, p, q, params) -> (term, pull)`, and `term(...)` and `pull(...)`, each half alone."""
    outputs = {"terms": terms[:2], "term": (terms.term_alone,), "pull": (terms.pull_alone,)}
    functions = (_function(name, nodes, params, dtype) for name, nodes in outputs.items())
    return "\n\n".join((_HEADER, *functions))


def _function(name: str, outputs: tuple[Node, ...], params: int, dtype: torch.dtype) -> str:
    lines, names = [], {}
    for node in ordered(outputs):
        if isinstance(node.value, str):
            names[node] = node.value
        elif node.value is not None:
            names[node] = _constant(node.value, dtype)
        else:
            names[node] = f"t{len(lines)}"
            lines.append(f"    {names[node]} = {OPERATIONS[node.op].triton.format(*(_operand(names[a]) for a in node.args))}")
    unpacked = [f"    p{i} = params[{i}]" for i in range(params)]
    # A constant result has no shape of its own.
    results = [names[o] if o.args else f"{names[o]} + tl.zeros_like(d)" for o in outputs]
    head = "@triton.jit", f"def {name}({', '.join(ARGUMENTS)}, params):"
    return "\n".join((*head, *unpacked, *lines, f"    return {', '.join(results)}\n"))


def _operand(text: str) -> str:
    return f"({text})" if text.startswith("-") else text


def _constant(value: float, dtype: torch.dtype) -> str:
    text = repr(value) if abs(value) < float("inf") else f'float("{value}")'
    # Between two scalars Triton would take float32 for any number.
    return text if dtype == torch.float32 else f"tl.full((), {text}, tl.float64)"
