"""Checks the return values of parts against their contract. An error names the key, the line and the expected value.

Checks of shapes and types do not synchronise with a device. Values are checked on the host; on a device only inside `values_checked`,
in which the learner repeats an update whose loss is not finite, to find the part that caused it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from numbers import Real
from typing import Any, NoReturn

import torch
from torch import Tensor

from align.config.parts import location, ships
from align.errors import RecipeError

FLOATS = (torch.float32, torch.float64)
"""Allowed dtypes of a column: float32 by the contracts, float64 in oracles."""
TOKEN = "one for each trained token (x[batch.seq_ids] spreads values of answers)"
LOSS = "one for each trained token, neither summed nor averaged: the reduction does that"
ANSWER = "one for each answer"
_values: ContextVar[bool] = ContextVar("values", default=False)


@contextmanager
def values_checked() -> Iterator[None]:
    """Inside the block every check of floats from a part that does not ship also requires them to be finite, which waits for the device."""
    before = _values.set(True)
    try:
        yield
    finally:
        _values.reset(before)


@dataclass(frozen=True)
class Returned:
    """Checks of the return value of one method of the part at the key `where`. Each returns the value or raises RecipeError."""

    part: object
    method: str
    where: str

    def numbers(self, found: Any, count: int, each: str, *, detached: bool = False) -> Tensor:
        """Floats of shape [count]; `each` describes what an entry is for."""
        right = isinstance(found, Tensor) and found.shape == (count,) and found.dtype in FLOATS
        if not right or (detached and found.requires_grad):
            self.refuse(_described(found), f"float32 [{count}]{', detached' if detached else ''}, {each}")
        return self._own_values(found, each)

    def finite(self, found: Any, count: int, each: str) -> Tensor:
        """Detached floats of shape [count] on the host, none of them NaN or infinite."""
        self.numbers(found, count, each, detached=True)
        return self._within(found, found.isfinite(), f"finite, {each}")

    def not_negative(self, found: Any, count: int, each: str) -> Tensor:
        """As `finite`, and at least 0."""
        return self._within(found, self.finite(found, count, each) >= 0, f">= 0, {each}: below 0 it drives the policy away")

    def positive(self, found: Any, count: int, each: str) -> Tensor:
        """As `finite`, and above 0."""
        return self._within(found, self.finite(found, count, each) > 0, f"above 0, {each}")

    def like(self, found: Any, given: Tensor, each: str) -> Tensor:
        """Floats of the shape and dtype of `given`."""
        if not (isinstance(found, Tensor) and found.shape == given.shape and found.dtype == given.dtype):
            self.refuse(_described(found), f"{_described(given.detach())}, {each}")
        return self._own_values(found, each)

    def statistics(self, found: Any, each: str) -> Mapping[str, Tensor]:
        """A mapping of names to tensors of one dimension; `each` describes what an entry is for."""
        if not isinstance(found, Mapping):
            self.refuse(_described(found), f"a dict from names to tensors, {each}")
        for name, values in found.items():
            if not (isinstance(name, str) and isinstance(values, Tensor) and values.ndim == 1):
                self.refuse(f"{_described(values)} as {name!r}", f"a dict from names to tensors of one dimension, {each}")
        return found

    def metrics(self, found: Any) -> dict[str, float]:
        """A mapping of names to numbers, for the log."""
        if not isinstance(found, Mapping):
            self.refuse(_described(found), "a dict from names to numbers")
        for name, value in found.items():
            if not (isinstance(name, str) and isinstance(value, Real)):
                self.refuse(f"{_described(value)} as {name!r}", "a dict from names to numbers")
        return dict(found)

    def _own_values(self, found: Tensor, each: str) -> Tensor:
        if _values.get() and not ships(type(self.part)):
            self._within(found, found.isfinite(), f"finite, {each}")
        return found

    def _within(self, found: Tensor, right: Tensor, wanted: str) -> Tensor:
        if not right.all():
            self.refuse(f"{found[~right][0].item():.4g} at {int((~right).sum())} of {found.numel()} places", wanted)
        return found

    def flags(self, found: Any, count: int, each: str) -> Tensor:
        """Booleans of shape [count]."""
        if not (isinstance(found, Tensor) and found.shape == (count,) and found.dtype == torch.bool):
            self.refuse(_described(found), f"bool [{count}], {each}")
        return found

    def states(self, found: Any, count: int) -> Tensor:
        """Hidden states of shape [count, H]."""
        if not (isinstance(found, Tensor) and found.ndim == 2 and len(found) == count and found.is_floating_point()):
            self.refuse(_described(found), f"floats [{count}, H], the state that predicts each trained token")
        return self._own_values(found, "the state that predicts each trained token")

    def pair(self, found: Any, wanted: str) -> tuple[Any, Any]:
        """A pair of values."""
        if not (isinstance(found, tuple) and len(found) == 2):
            self.refuse(_described(found), wanted)
        return found

    def refuse(self, found: str, wanted: str) -> NoReturn:
        cls = type(self.part)
        place = location(getattr(cls, self.method, cls))
        raise RecipeError(self.where, f"{place}: {cls.__name__}.{self.method} returned {found}, must be {wanted}")


def _described(found: Any) -> str:
    """Type, shape and gradient of a tensor; the type or value of anything else."""
    if isinstance(found, Tensor):
        return f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}{' with a gradient' if found.requires_grad else ''}"
    return f"a tuple of {len(found)}" if isinstance(found, tuple) else f"{found!r:.60}"
