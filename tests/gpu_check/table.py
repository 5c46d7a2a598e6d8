"""Results as text for a terminal: a line a stage, then what each has found."""

from __future__ import annotations

from typing import Any

WIDTH = 160
"""Characters of a line; results.json has all of a longer one."""


def table(results: dict[str, Any]) -> str:
    """Stages with their states and seconds, below them the findings of each and the last lines of what failed."""
    stages = results["stages"]
    name = max(map(len, ["stage", *stages]))
    lines = [f"{'stage':<{name}}  {'state':<7}  seconds"]
    lines += [f"{key:<{name}}  {stage['state']:<7}  {stage['seconds']:>7.1f}" for key, stage in stages.items()]
    lines.append(f"{'all':<{name}}  {'':<7}  {results['seconds']:>7.1f} of {results['limit']:.0f} on {results['device']}")
    for key, stage in stages.items():
        lines += ["", f"{key}: {stage['state']}" + (f": {stage['why']}" if "why" in stage else "")]
        lines += [_cut(f"  {entry}: {shown(value)}") for entry, value in stage["found"].items()]
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


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 4] + " ..."
