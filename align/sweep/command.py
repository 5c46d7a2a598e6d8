"""The command `align sweep`: runs or reports a sweep and prints its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from align import sweep
from align.complaints import complain
from align.config.find import find_recipe
from align.errors import UserError
from align.options import wide
from align.sweep.plan import Axis, Plan

STOPPED_BY_HAND = 130
"""The exit code that shells use for Ctrl-C."""


def show(
    words: Sequence[str],
    over: Sequence[str],
    seeds: int,
    out: Path | None,
    jobs: int,
    metrics: Sequence[str],
    address: str | None,
    report: Path | None,
) -> bool:
    """Run every cell with every seed, or take the sweep in the folder `report` as far as it has come; print the table.

    Args: words: recipes, by name or file, and overrides `KEY=VALUE` of all of them; over: `KEY=V1,V2,...`; the others as `Plan` and
        `align.sweep.run` have them.
    Returns: whether no run failed.
    Raises: UserError before the first run; typer.Exit after Ctrl-C.
    """
    if report is not None:
        if words or over or out is not None:
            raise UserError("--report DIR prints what is there: leave out the recipes, --over and --out")
        sweep.present(sweep.report(report, metrics), report, wide())
        return True
    names = [word for word in words if "=" not in word]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"the recipe {twice[0]} is given twice")
    recipes = {name: find_recipe(name).resolve() for name in names}
    if not recipes or out is None:
        raise UserError("give a RECIPE and the --out of the sweep, or --report DIR alone")
    plan = Plan(recipes, tuple(word for word in words if "=" in word), tuple(Axis.parse(text) for text in over), seeds, out)
    console = wide()
    try:
        found = sweep.run(plan, jobs, address, metrics, console)
        sweep.present(found, out, console)
    except KeyboardInterrupt:
        complain("Stopped by hand. The same command goes on from what was kept.")
        raise typer.Exit(STOPPED_BY_HAND) from None
    return not any(run["error"] for cell in found["cells"] for run in cell["runs"])
