"""What a part returned, held to its contract where training gets it: an error with its key, its line and what to return instead.

Shapes and types are on the host, so a check of them waits for no device. Values are looked at where the batch is on the host anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from align.config.nodes import location
from align.errors import RecipeError

FLOATS = (torch.float32, torch.float64)
"""What a column may be: float32 by the contracts, float64 where an oracle runs in it."""
TOKEN = "one for each trained token (x[batch.seq_ids] spreads values of answers)"
LOSS = "one for each trained token, neither summed nor averaged: the reduction does that"
ANSWER = "one for each answer"


@dataclass(frozen=True)
class Returned:
    """One method of the part at the key `where`, and the checks of what it returned. Each raises RecipeError, or gives it back."""

    part: object
    method: str
    where: str

    def numbers(self, found: Any, count: int, each: str, *, detached: bool = False) -> Tensor:
        """Floats of shape [count]; `each` says what there is one for."""
        right = isinstance(found, Tensor) and found.shape == (count,) and found.dtype in FLOATS
        if not right or (detached and found.requires_grad):
            self.refuse(_described(found), f"float32 [{count}]{', detached' if detached else ''}, {each}")
        return found

    def finite(self, found: Any, count: int, each: str) -> Tensor:
        """Detached floats of shape [count] on the host, none of them NaN or infinite."""
        bad = ~self.numbers(found, count, each, detached=True).isfinite()
        if bad.any():
            self.refuse(f"{found[bad][0].item()} at {int(bad.sum())} of {count} places", f"finite, {each}")
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
        """Two values."""
        if not (isinstance(found, tuple) and len(found) == 2):
            self.refuse(_described(found), wanted)
        return found

    def refuse(self, found: str, wanted: str) -> NoReturn:
        cls = type(self.part)
        place = location(getattr(cls, self.method))
        raise RecipeError(self.where, f"{place}: {cls.__name__}.{self.method} returned {found}, must be {wanted}")


def _described(found: Any) -> str:
    """Type, shape and gradient of a tensor; of anything else what it is."""
    if isinstance(found, Tensor):
        return f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}{' with a gradient' if found.requires_grad else ''}"
    return f"a tuple of {len(found)}" if isinstance(found, tuple) else f"{found!r:.60}"
