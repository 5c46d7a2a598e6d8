"""Sends each column of a batch to the learner and back only once, and counts the bytes.

The learner keeps the batch whose log-probs it computed last. Each side sends only fields that the other side lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from align.types import Stat, TokenBatch


class Exchange:
    """The driver's side. In one process it sends nothing and counts the same bytes."""

    def __init__(self):
        self._computed: TokenBatch | None = None
        self._to = self._back = 0

    def to_compute(self, batch: TokenBatch) -> dict[str, Any]:
        """The fields to send for `compute_logprobs`: all fields of the batch."""
        self._computed = None  # if the call fails, the next update sends everything
        return self._sent(changes(None, batch))

    def computed(self, batch: TokenBatch, found: Mapping[str, Any]) -> TokenBatch:
        """The batch with its log-probs, from the fields that computing them changed."""
        self._back += bytes_of(found)
        self._computed = replace(batch, **found)
        return self._computed

    def update(self, batch: TokenBatch) -> tuple[dict[str, Any], bool]:
        """The fields to send for `update`, and whether they complete the batch computed last."""
        return self._sent(changes(self._computed, batch)), self._computed is not None

    def updated(self, stats: dict[str, Stat]) -> dict[str, Stat]:
        self._back += bytes_of(stats)
        return stats

    def _sent(self, found: dict[str, Any]) -> dict[str, Any]:
        self._to += bytes_of(found)
        return found

    def take(self) -> dict[str, float]:
        """The bytes since the last `take`, as metrics, without weights (`sync/bytes`), rollouts and rewards."""
        taken, self._to, self._back = {"bytes/to_learner": float(self._to), "bytes/from_learner": float(self._back)}, 0, 0
        return taken


def changes(before: TokenBatch | None, after: TokenBatch) -> dict[str, Any]:
    """The fields of `after` that are not the same objects as in `before`; all fields if `before` is None."""
    found = {f.name: getattr(after, f.name) for f in fields(TokenBatch)}
    return found if before is None else {name: value for name, value in found.items() if value is not getattr(before, name)}


def bytes_of(value: Any) -> int:
    """The approximate bytes of a sent value: a tensor counts its whole storage, which is sent; a number counts 8 bytes; and text.

    They are counted and not measured, because pickles of the same values differ by a few bytes from run to run.
    """
    if isinstance(value, Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, Mapping):
        return sum(bytes_of(name) + bytes_of(part) for name, part in value.items())
    if isinstance(value, tuple | list):
        return sum(map(bytes_of, value))
    if is_dataclass(value):
        return sum(bytes_of(getattr(value, f.name)) for f in fields(value))
    return len(value.encode()) if isinstance(value, str) else 0 if value is None else 8
