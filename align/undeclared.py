"""What stands in a batch for a column that a part has not declared in `needs`: using it is an error that says what to declare."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, NoReturn

from align.config.tracebacks import calling_line
from align.errors import RecipeError

OPERATIONS = (
    "abs",
    "add",
    "and",
    "array",
    "bool",
    "call",
    "contains",
    "divmod",
    "eq",
    "float",
    "floordiv",
    "format",
    "ge",
    "getitem",
    "gt",
    "index",
    "int",
    "invert",
    "iter",
    "len",
    "lshift",
    "lt",
    "le",
    "matmul",
    "mod",
    "mul",
    "ne",
    "neg",
    "next",
    "or",
    "pos",
    "pow",
    "radd",
    "rand",
    "rdivmod",
    "rfloordiv",
    "rlshift",
    "rmatmul",
    "rmod",
    "rmul",
    "ror",
    "round",
    "rpow",
    "rrshift",
    "rshift",
    "rsub",
    "rtruediv",
    "rxor",
    "setitem",
    "str",
    "sub",
    "truediv",
    "xor",
)
"""What `__NAME__` does with an object: each of them refuses."""


class Undeclared:
    """Raises RecipeError wherever it is used. It can be handed on, so a batch that holds it is selected, moved and replaced as any other.

    It is not None: a part that looks whether a column is there would take another way than with the column, and never say why.
    """

    def __init__(self, column: str, where: str, part: type, remedy: str):
        self._column, self._where, self._part, self._remedy = column, where, part, remedy

    def __repr__(self) -> str:
        return f"<{self._column}, which is not declared>"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            # What Python asks of any object, when it copies one for instance.
            raise AttributeError(name)
        self._refuse()

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> NoReturn:
        _first((args, (kwargs or {}).values()))._refuse()

    def _refuse(self, *_: Any) -> NoReturn:
        file = inspect.getsourcefile(self._part) or inspect.getfile(self._part)
        line = calling_line(file) or inspect.getsourcelines(self._part)[1]
        raise RecipeError(
            self._where, f"{file}:{line}: {self._part.__name__} reads batch.{self._column} and does not declare it: {self._remedy}"
        )


for _operation in OPERATIONS:
    setattr(Undeclared, f"__{_operation}__", Undeclared._refuse)


def undeclared(column: str, needs: frozenset[str] | None, part: type, where: str) -> Any:
    """In place of this column, for a part of this class that declares `needs`; None: a part that can declare none."""
    declared = ", ".join(map(repr, sorted({column, *(needs or ())})))
    return Undeclared(
        column, where, part, "a part of this kind gets the tokens alone" if needs is None else f"declare needs = frozenset({{{declared}}})"
    )


def _first(values: Iterable[Any]) -> Undeclared:
    """The first one among nested arguments."""
    waiting = list(values)
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, Undeclared):
            return value
        if isinstance(value, Iterable) and not hasattr(value, "shape") and not isinstance(value, str):
            waiting = [*value, *waiting]
    raise TypeError("none of these arguments is undeclared")
