"""Runs recipes with a grid of changes and several seeds, each run in its own process, and makes one table of all runs.

In the sweep's folder, `CELL/seed_N` is a run and `CELL/seed_N.log` its output; `sweep.json` has the plan and every number; `table.md`
and `sweep.png` present them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from align.errors import UserError
from align.sweep.plan import Plan, Run
from align.sweep.results import FILE, read, write
from align.sweep.table import absent, markdown, missing, reading, tables


def run(plan: Plan, jobs: int, address: str | None, metrics: Sequence[str], console: Console) -> dict[str, Any]:
    """Check every cell, run the unfinished ones, and return the contents of `sweep.json`.

    Raises: UserError before the first run, for a value that is invalid in some cell, or a folder with other runs.
    KeyboardInterrupt after Ctrl-C, when every run has stopped.
    """
    # Building recipes imports torch, which a report does not need.
    from align.sweep.checked import checked  # noqa: PLC0415
    from align.sweep.progress import watch  # noqa: PLC0415
    from align.sweep.runner import Runner, locked  # noqa: PLC0415

    recipes = checked(plan)
    with locked(plan.out) as lock:
        waiting = [r for r in plan.runs if not r.finished]
        errors: dict[str, str] = {}

        def ended(run: Run, error: str | None) -> None:
            if error:
                errors[str(run)] = error
            write(plan, errors, metrics)

        write(plan, errors, metrics)
        steps = {cell: recipe.steps for cell, recipe in recipes.items()}
        with watch(console, plan, len(plan.runs) - len(waiting), steps) as view:
            Runner(waiting, recipes, plan, address, lock).run(jobs, view, ended)
    return write(plan, errors, metrics)


def report(out: Path, metrics: Sequence[str]) -> dict[str, Any]:
    """The results of a sweep so far. Raises UserError if `out` has no sweep."""
    if not (out / FILE).is_file():
        raise UserError(f"{out} holds no sweep (no {FILE}); give the --out of one")
    plan, errors = read(out)
    return write(plan, errors, metrics)


def present(found: dict[str, Any], out: Path, console: Console) -> None:
    """Print the table, and save it as `table.md` with its plot."""
    # matplotlib takes a second to import.
    from align.sweep.plot import draw  # noqa: PLC0415

    picture = draw(found, out / "sweep.png")
    (out / "table.md").write_text(markdown(found, picture))
    for part in tables(found, console.width):
        console.print(part)
    for line in (reading(found), *absent(found)):
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    for line in missing(found):
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    kept = ["sweep.json", "table.md", *(["sweep.png"] if picture else [])]
    console.print(f"kept in {out}: {', '.join(kept)}", markup=False, highlight=False, soft_wrap=True)
