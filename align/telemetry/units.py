"""Label, unit and number format of each metric."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from align.terminal import printable


class Unit(NamedTuple):
    label: str
    """Empty for a number without a unit."""
    style: str
    """`plain`, `share` (of 1), `count`, `seconds`, or `small` (four significant digits)."""


UNITS = (
    (r"kl/initial|^divergence/", Unit("nats/response", "small")),
    (r"^kl/|^entropy|gap$", Unit("nats/token", "small")),
    (r"tokens/s$", Unit("tokens/s", "count")),
    (r"^time/|seconds$", Unit("s", "seconds")),
    (
        r"pass@|majority@|coverage|solved|accuracy|clipped|^weighted/|^clamped/|^capped/|finished|share|truncated|limited|no_signal|distinct",
        Unit("share", "share"),
    ),
    (r"^curriculum/(pass_rate|tried)$", Unit("share", "share")),
    (r"^curriculum/effective_prompts$", Unit("prompts", "plain")),
    (r"staleness$", Unit("updates", "plain")),
    (r"^bytes/|/bytes$|^memory/", Unit("bytes", "count")),
    (r"length|longest|^environment/tokens", Unit("tokens", "plain")),
    (r"^lr$|^beta/|^loss", Unit("", "small")),
)
"""The first matching pattern gives the unit; any other metric is a plain number."""


def unit(metric: str) -> Unit:
    return next((u for pattern, u in UNITS if re.search(pattern, metric)), Unit("", "plain"))


def show(metric: str, value: float | None, *, signed: bool = False) -> str:
    """The number formatted for a reader, without its unit; a dash if it is not finite."""
    if value is None or not math.isfinite(value):
        return "-"
    sign, style = "+" if signed else "", unit(metric).style
    if style == "count":
        return f"{value:{sign},.0f}"
    if style == "seconds":
        return f"{value:{sign}.1f}"
    if style == "share":
        return f"{value:{sign}.3f}"
    if isinstance(value, int):
        return f"{value:{sign},}"
    if value == 0:
        return "0"
    if style == "small" and not 1e-3 <= abs(value) < 1e4:
        return f"{value:{sign}.2e}"
    return f"{value:{sign}.4f}" if abs(value) < 10 else f"{value:{sign}.2f}" if abs(value) < 1000 else f"{value:{sign},.0f}"


def table(metrics: Mapping[str, float]) -> Table:
    """Metrics with their units, for a terminal."""
    found = Table("metric", "value", "unit")
    for name, value in metrics.items():
        found.add_row(Text(printable(name)), show(name, value), unit(name).label)
    return found


def duration(seconds: float | None) -> str:
    """h:mm:ss, or m:ss under an hour."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
