"""The comparison as a person reads it: one line a recipe, then the differences of each in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from compare.differences import MISSING, Difference

LONGEST = 60
"""Characters of a text that is shown."""


def verdict(found: Sequence[Difference], compared: int, accepted: int) -> str:
    """One line: equal and how much was compared, or the first difference and how far the tensors are apart."""
    also = f"; {accepted} differences accepted" if accepted else ""
    if not found:
        return f"equal: {compared} values{also}"
    numbers = [d for d in found if not _of_tensors(d)]
    parts = [_line(first(numbers))] if numbers else []
    tensors = [d for d in found if _of_tensors(d)]
    if tensors:
        parts.append(f"{len(tensors)} tensors differ{_by(tensors)}")
    return f"DIFFERS: {'; '.join(parts)}{also}"


def first(found: Sequence[Difference]) -> Difference:
    """The metric that differs at the earliest step; where none does, the first value of another file. `found` is not empty."""
    metrics = [d for d in found if d.place.step is not None]
    return min(metrics, key=lambda d: d.place.step) if metrics else found[0]


def details(found: Sequence[Difference]) -> list[str]:
    """Every name that differs once, with its first values; names that one tree lacks; tensors by file."""
    by_label: dict[str, list[Difference]] = {}
    for difference in found:
        by_label.setdefault(difference.place.label, []).append(difference)
    absent, values, tensors = [], [], {}
    for label, each in by_label.items():
        if all(d.head is MISSING for d in each):
            absent.append(f"only in BASE: {label}")
        elif all(d.base is MISSING for d in each):
            absent.append(f"only in HEAD: {label}")
        elif _of_tensors(each[0]):
            tensors.setdefault(each[0].place.file, []).append(each[0])
        else:
            values.append(_line(first(each)) + (f"  (at {len(each)} steps)" if len(each) > 1 else ""))
    return [*absent, *values, *(f"{file}: {len(each)} tensors differ{_by(each)}" for file, each in tensors.items())]


def shown(value: Any) -> str:
    """A number with the 17 digits that tell it from every other float64."""
    if value is MISSING:
        return "nothing"
    if isinstance(value, float):
        return f"{value:.17g}"
    if isinstance(value, Tensor):
        return f"{value.item():.17g}" if value.numel() == 1 else f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _of_tensors(difference: Difference) -> bool:
    return isinstance(difference.base, Tensor) or isinstance(difference.head, Tensor)


def _line(difference: Difference) -> str:
    place = difference.place
    step = "" if place.step is None else f"step {place.step}  "
    return f"{step}{place.label}  {shown(difference.base)} -> {shown(difference.head)}"


def _by(tensors: Sequence[Difference]) -> str:
    """The tensor that is furthest apart. NaN, which no comparison finds, counts as the furthest."""
    measured = [d for d in tensors if d.largest is not None]
    if not measured:
        return f", such as {_line(tensors[0])}"
    worst = max(measured, key=lambda d: float("inf") if d.largest != d.largest else d.largest)
    return f", by at most {worst.largest:.3g} ({worst.place.label})"
