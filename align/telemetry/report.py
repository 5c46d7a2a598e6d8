"""The final table of a run: what training changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from align.telemetry.units import show, unit
from align.terminal import printable

LABELS = {
    "kl/initial": "KL to the initial policy",
    "resumed_from": "steps before the resume",
    "train_seconds": "training time",
    "wall_seconds": "wall time",
    "nothing_learned": "steps that learned nothing",
}
UNUSUAL = {"resumed_from", "nothing_learned"}
"""Rows that are left out where they are 0."""


def table(summary: Mapping[str, Any]) -> Table:
    """A table with a row per metric and the columns before, after and change. `before` and `after` of the summary are evaluations; any
    other number was measured once and is in the column after, those of UNUSUAL if they are not 0. Text (paths) is only in `summary.json`.
    """
    before, after = summary.get("before") or {}, summary.get("after") or {}
    result = Table(title="what training changed", title_justify="left", title_style="bold", header_style="bold")
    result.add_column("metric")
    for column in ("before", "after", "change"):
        result.add_column(column, justify="right")
    result.add_column("unit", style="dim")
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        change = None if old is None or new is None else new - old
        result.add_row(_label(name), show(name, old), show(name, new), Text(show(name, change, signed=True)), _unit(name))
    result.add_section()
    for name, value in summary.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and (value or name not in UNUSUAL):
            result.add_row(_label(name), "", show(name, value), "", _unit(name))
    return result


def times(phases: Mapping[str, float]) -> str:
    """Where the wall time went, in one line."""
    return "time: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in phases.items())


def _label(name: str) -> Text:
    """In plain English. A suite keeps the name that its task gives it."""
    suite, slash, metric = name.rpartition("/")
    return Text(printable(LABELS.get(name, f"{suite}{slash}{metric.replace('_', ' ')}")))


def _unit(name: str) -> str:
    return "" if unit(name).label == name else unit(name).label
