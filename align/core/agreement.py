"""How far two computations of the same log-probs may be apart."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Limits(NamedTuple):
    """Largest differences, in nats a token, that rounding explains."""

    repeated: float
    """Between two passes of one computation: atomic sums have no fixed order on a GPU; elsewhere they are equal bit for bit."""
    other: float
    """Between two computations. Logits near 32 have a last bit of 1/4 in bfloat16, and a model returns them in its own precision."""


LIMITS = {"float32": Limits(1e-4, 1e-3), "bfloat16": Limits(0.02, 0.25)}
"""By precision. A head without its multiplier, or dropout that was left on, is off by 0.1 to 10."""


def largest_gap(logp: Float[Tensor, "T"], other: Float[Tensor, "T"]) -> float:
    """The largest absolute difference; infinity where one of the two is not finite."""
    gap = (logp.double() - other.double()).abs().nan_to_num(float("inf")).max().item()
    return float(gap)
