"""Results as text for a terminal: a line a stage, then what each has found."""

from __future__ import annotations

import textwrap
from typing import Any

WIDTH = 140
MOST_LINES = 3
"""Of one finding; results.json has all of it."""


def table(results: dict[str, Any]) -> str:
    """Stages with their states and seconds, below them the findings of each and the last lines of what failed."""
    stages = results["stages"]
    name = max(map(len, ["stage", *stages]))
    lines = [f"{'stage':<{name}}  {'state':<7}  seconds"]
    lines += [f"{key:<{name}}  {stage['state']:<7}  {stage['seconds']:>7.1f}" for key, stage in stages.items()]
    lines.append(f"{'all':<{name}}  {'':<7}  {results['seconds']:>7.1f} of {results['limit']:.0f} on {results['device']}")
    for key, stage in stages.items():
        lines += ["", f"{key}: {stage['state']}" + (f": {stage['why']}" if "why" in stage else "")]
        for entry, value in stage["found"].items():
            lines += textwrap.wrap(
                f"{entry}: {shown(value)}", WIDTH, initial_indent="  ", subsequent_indent="    ", max_lines=MOST_LINES, placeholder=" ..."
            )
        for case, trace in stage["failed"].items():
            lines += [f"  FAILED {case}", *(f"    {line}" for line in trace.splitlines())]
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A finding in one line, numbers with four digits."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
