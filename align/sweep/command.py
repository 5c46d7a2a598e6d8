"""The command `align sweep`: runs or reports a sweep and prints its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from align import sweep
from align.config.find import find_recipe
from align.errors import UserError
from align.sweep.plan import Axis, Plan


def report(out: Path, metrics: Sequence[str], console: Console) -> None:
    """Print the table of a sweep as far as it has come. Raises UserError if `out` has no sweep."""
    sweep.present(sweep.report(out, metrics), out, console)


def run(
    recipe: str | None,
    overrides: Sequence[str],
    over: Sequence[str],
    seeds: int,
    out: Path | None,
    jobs: int,
    metrics: Sequence[str],
    address: str | None,
    console: Console,
) -> bool:
    """Run every cell with every seed, print the table, and return whether no run failed.

    Args: recipe: a name or a YAML file; over: `KEY=V1,V2,...`; the others as `Plan` and `align.sweep.run` have them.
    Raises: UserError before the first run. KeyboardInterrupt after Ctrl-C.
    """
    if recipe is None or out is None:
        raise UserError("give a RECIPE and the --out of the sweep, or --report DIR alone")
    axes = tuple(Axis.parse(text) for text in over)
    plan = Plan(recipe, find_recipe(recipe).resolve(), tuple(overrides), axes, seeds, out)
    found = sweep.run(plan, jobs, address, metrics, console)
    sweep.present(found, out, console)
    return not any(run["error"] for cell in found["cells"] for run in cell["runs"])
