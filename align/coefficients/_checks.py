"""What the numbers of a coefficient must be, said alike in every file. NaN and infinity are refused with the rest."""

from __future__ import annotations

from typing import Any

from align.coefficients import Coefficient


def not_negative(part: Coefficient, *keys: str) -> None:
    """Raises ValueError for a key that is no coefficient."""
    for key in keys:
        coefficient(key, getattr(part, key))


def coefficient(key: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{key} must be >= 0, not {value}: a negative coefficient drives the policy away")


def positive(part: Any, *keys: str) -> None:
    for key in keys:
        if not 0 < getattr(part, key) < float("inf"):
            raise ValueError(f"{key} must be positive, not {getattr(part, key)}")


def between(part: Any) -> None:
    """`initial` lies in [`minimum`, `maximum`], and these leave room."""
    positive(part, "minimum", "maximum", "initial")
    if not (part.minimum < part.maximum and part.minimum <= part.initial <= part.maximum):
        raise ValueError(
            f"initial must lie between minimum and maximum, and {part.initial} does not lie between {part.minimum} and {part.maximum}"
        )
