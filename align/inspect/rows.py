"""A line of the output of `align explain`."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    label: str
    text: str
    place: str = ""
    """`file:line`, or empty."""
