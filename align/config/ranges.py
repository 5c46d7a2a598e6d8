"""Which numbers a key accepts. Without an annotation a float is finite and within float32, and a whole number is below 2^31.

A key narrows or widens that in its annotation, in a user's part too: `lr: Annotated[float, Gt(0)]`. The constraints are those of the
package `annotated_types`. `explain` and the documentation print them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from annotated_types import BaseMetadata, Ge, Gt, Interval, Le, Lt

MAX_FLOAT = 3.4028234663852886e38
"""The largest float32: what exceeds it becomes infinite in a tensor."""
MAX_INT = 2**31 - 1
LARGEST = 2**64
"""No key takes a whole number beyond it."""


class Infinite(BaseMetadata):
    """The key may be infinite, which switches its limit off."""


Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
BelowOne = Annotated[float, Interval(ge=0, lt=1)]
AtLeastOne = Annotated[int, Ge(1)]
Count = Annotated[int, Ge(0)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]

_WORDS = {Gt: ("above", "gt"), Ge: ("at least", "ge"), Lt: ("below", "lt"), Le: ("at most", "le")}


def constraints(hint: Any) -> list[BaseMetadata]:
    """Of an annotation, also inside a union or a tuple: `Annotated[float, Gt(0)] | None` has Gt(0)."""
    found = []
    if get_origin(hint) is Annotated:
        hint, *own = get_args(hint)
        found = [c for m in own for c in (list(m) if isinstance(m, Interval) else [m]) if isinstance(c, BaseMetadata)]
    return found + [c for inner in get_args(hint) for c in constraints(inner)]


def _maps_to_numbers(hint: Any) -> bool:
    """Whether it is `dict[str, float]`, also inside a union; values of a `dict[str, Any]` are data and have no range."""
    inner = get_args(hint)
    return inner[-1] in (int, float) if get_origin(hint) is dict else any(_maps_to_numbers(i) for i in inner)


def constraint_text(hint: Any) -> str:
    """The constraints in words, as in "at least 0, below 1"; empty without any."""
    return ", ".join(_word(c) for c in constraints(hint) if type(c) in _WORDS)


def refusal(value: Any, hint: Any) -> str | None:
    """Why a key with this annotation does not accept `value` (a number, a sequence of numbers, or a mapping to them), or None."""
    allowed = constraints(hint)
    if isinstance(value, Mapping):
        values = list(value.values()) if _maps_to_numbers(hint) else []
    else:
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return next((text for v in values if isinstance(v, int | float) and not isinstance(v, bool) if (text := _of(v, allowed))), None)


def _of(value: float, allowed: list[BaseMetadata]) -> str | None:
    if isinstance(value, int) and abs(value) > LARGEST:  # no float holds it, so it cannot be compared or shown
        return f"must be within 64 bits, not a number of {value.bit_length()} bits"
    if math.isnan(value):  # every comparison with NaN is false, so no bound would refuse it
        return "nan is not a number: give one"
    for constraint in allowed:
        if type(constraint) in _WORDS and not _holds(value, constraint):
            return f"must be {_word(constraint)}, not {_number(value)}"
    if isinstance(value, int):
        bounded = any(isinstance(c, Le | Lt) for c in allowed)
        return None if bounded or abs(value) <= MAX_INT else f"must be below {MAX_INT + 1}, not {value}"
    if math.isinf(value):
        return None if any(isinstance(c, Infinite) for c in allowed) else f"must be finite, not {value:g}"
    return None if abs(value) <= MAX_FLOAT else f"must be within float32 (at most {MAX_FLOAT:.3g}), not {value:g}"


def _holds(value: float, constraint: Any) -> bool:
    bound = _bound(constraint)
    return {Gt: value > bound, Ge: value >= bound, Lt: value < bound, Le: value <= bound}[type(constraint)]


def _bound(constraint: Any) -> float:
    return getattr(constraint, _WORDS[type(constraint)][1])


def _word(constraint: Any) -> str:
    return f"{_WORDS[type(constraint)][0]} {_number(_bound(constraint))}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
