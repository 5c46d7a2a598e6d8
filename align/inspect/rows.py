"""A line of what `align explain` prints."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    label: str
    text: str
    place: str = ""
    """file:line."""
