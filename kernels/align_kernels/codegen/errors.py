"""Errors a user's divergence can cause, all raised when it is registered, naming the user's file and line."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_INNER = tuple(os.path.dirname(f) + os.sep for f in (torch.__file__, os.path.dirname(__file__), os.__file__))
"""torch, align_kernels and the standard library: frames of these are not the user's."""

_VALUE_ASKED = ("data-dependent", "data dependent", "value out of a tracing tensor", "boolean value of tensor", "as a python scalar")


class DivergenceError(ValueError):
    """What is wrong with the function, the user's file and line, and what to write instead."""


@contextmanager
def blamed_on(divergence: object) -> Iterator[None]:
    """Whatever the user's function raises within becomes a DivergenceError that says where and what to do."""
    try:
        yield
    except DivergenceError:
        raise
    except Exception as error:
        # Only here: the errors of a user's function are of every type.
        where = _innermost(traceback.extract_tb(error.__traceback__)) or name_of(divergence)
        text = str(error)
        if any(phrase in text.lower() for phrase in _VALUE_ASKED):
            remedy = "it asks for the value of a tensor (if, float(), .item()), which differs from element to element: say torch.where"
        else:
            remedy = "it must be an elementwise torch function: tensors in, one tensor of the same shape out (torch.exp, not math.exp)"
        raise DivergenceError(f"{where}: {name_of(divergence)} cannot become a kernel; {remedy}. {type(error).__name__}: {text}") from error


def name_of(divergence: object) -> str:
    """How messages, tables and caches call a divergence."""
    name = getattr(divergence, "__name__", None)
    if name is not None:
        return name
    return repr(divergence) if hasattr(divergence, "__dataclass_fields__") else type(divergence).__name__


def line_of(function: Callable[..., Any], arguments: tuple, op: str) -> str:
    """The user's line that calls the ATen op, or "" where only autograd does."""
    with _Finder(op) as finder:
        function(*arguments)
    return finder.where


class _Finder(TorchDispatchMode):
    def __init__(self, op: str):
        super().__init__()
        self.op, self.where = op, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not self.where and func.overloadpacket.__name__ == self.op:
            self.where = _innermost(traceback.extract_stack())
        return func(*args, **(kwargs or {}))


def _innermost(frames: traceback.StackSummary) -> str:
    for frame in reversed(frames):
        if not frame.filename.startswith((*_INNER, "<")):
            return f"{frame.filename}:{frame.lineno} ({frame.line})"
    return ""
