"""What two runs hold that is not the same, bit for bit. Pure: no files, no processes."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

METRICS = "metrics.jsonl"


class Place(NamedTuple):
    """Where a value stands in the folder of a run."""

    file: str
    """Relative to the folder; of a checkpoint in several files, their folder."""
    name: str
    """A metric, a tensor, or the keys of a JSON file joined by dots."""
    step: int | None = None
    """Of a metric."""

    @property
    def label(self) -> str:
        """What a report, and a pattern of accepted differences, calls it."""
        return self.name if self.file == METRICS else f"{self.file}: {self.name}"


Results = Mapping[Place, Any]
"""Everything that is compared of one run: tensors, numbers, texts, bytes. In the order in which it was written."""


class Missing:
    """Stands for the value that one of the two runs does not have."""

    def __repr__(self) -> str:
        return "missing"


MISSING = Missing()


@dataclass(frozen=True)
class Difference:
    """A place, called as in HEAD, where the two runs differ."""

    place: Place
    base: Any
    head: Any

    @property
    def largest(self) -> float | None:
        """The largest |base - head| of two tensors of one floating type and one shape, nan where one is not finite; else None."""
        # A hash is a tensor of integers, and how far two of them are apart says nothing.
        if not (isinstance(self.base, Tensor) and isinstance(self.head, Tensor) and self.base.is_floating_point()):
            return None
        if self.base.dtype != self.head.dtype or self.base.shape != self.head.shape:
            return None
        return (self.base.double() - self.head.double()).abs().max().item()


def differences(base: Results, head: Results, renames: Mapping[str, str] | None = None) -> list[Difference]:
    """Every place where the runs differ, in the order of BASE, then what is in HEAD alone.

    Args: renames: patterns of files or names of BASE and what HEAD calls them; `*` stands for the same text on both sides.
    Raises: ValueError where a rename makes two places one.
    """
    renamed: dict[Place, Any] = {}
    for place, value in base.items():
        new = Place(_renamed(place.file, renames or {}), _renamed(place.name, renames or {}), place.step)
        if new in renamed:
            raise ValueError(f"two names of BASE become {new.label}")
        renamed[new] = value
    pairs = [(place, renamed.get(place, MISSING), head.get(place, MISSING)) for place in dict.fromkeys([*renamed, *head])]
    return [Difference(*pair) for pair in pairs if not same(*pair[1:])]


def same(a: Any, b: Any) -> bool:
    """Equal in type and in every bit: NaN is itself, and 0.0 is not -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    return a == b


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    for old, new in renames.items():
        found = re.fullmatch(re.escape(old).replace(r"\*", "(.*)"), name)
        if found:
            return new.replace("*", found[1]) if found.groups() else new
    return name
