"""Checks the return values of parts against their contract. An error names the key, the line and the expected value.

Checks of shapes and types do not synchronise with a device. Values are checked only on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from align.config.nodes import location
from align.errors import RecipeError

FLOATS = (torch.float32, torch.float64)
"""Allowed dtypes of a column: float32 by the contracts, float64 in oracles."""
TOKEN = "one for each trained token (x[batch.seq_ids] spreads values of answers)"
LOSS = "one for each trained token, neither summed nor averaged: the reduction does that"
ANSWER = "one for each answer"


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
        return found

    def finite(self, found: Any, count: int, each: str) -> Tensor:
        """Detached floats of shape [count] on the host, none of them NaN or infinite."""
        bad = ~self.numbers(found, count, each, detached=True).isfinite()
        if bad.any():
            self.refuse(f"{found[bad][0].item():.4g} at {int(bad.sum())} of {count} places", f"finite, {each}")
        return found

    def not_negative(self, found: Any, count: int, each: str) -> Tensor:
        """Detached floats >= 0 of shape [count] on the host."""
        bad = self.finite(found, count, each) < 0
        if bad.any():
            self.refuse(
                f"{found[bad][0].item():.4g} at {int(bad.sum())} of {count} places", f">= 0, {each}: below 0 it drives the policy away"
            )
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
        return found

    def pair(self, found: Any, wanted: str) -> tuple[Any, Any]:
        """A pair of values."""
        if not (isinstance(found, tuple) and len(found) == 2):
            self.refuse(_described(found), wanted)
        return found

    def refuse(self, found: str, wanted: str) -> NoReturn:
        cls = type(self.part)
        place = location(getattr(cls, self.method))
        raise RecipeError(self.where, f"{place}: {cls.__name__}.{self.method} returned {found}, must be {wanted}")


def _described(found: Any) -> str:
    """Type, shape and gradient of a tensor; the type or value of anything else."""
    if isinstance(found, Tensor):
        return f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}{' with a gradient' if found.requires_grad else ''}"
    return f"a tuple of {len(found)}" if isinstance(found, tuple) else f"{found!r:.60}"
