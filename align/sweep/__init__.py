"""One recipe many times: a grid of changes, several seeds of each, every run a process of its own, one table of all.

A sweep lives in a folder: `CELL/seed_N` is the run, `CELL/seed_N.log` what it printed, `sweep.json` the plan and every number,
`table.md` and `sweep.png` what a person reads of them.
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
    """Check every cell, run what has not finished, and return the results as `sweep.json` holds them.

    Raises: UserError before the first run, for a value that some cell cannot have or a folder that holds other runs.
    KeyboardInterrupt after Ctrl-C, with every run stopped.
    """
    # Building recipes imports torch; a report of what there is does without.
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
    """The results of a sweep as far as it has come. Raises UserError where `out` holds none."""
    if not (out / FILE).is_file():
        raise UserError(f"{out} holds no sweep (no {FILE}); give the --out of one")
    plan, errors = read(out)
    return write(plan, errors, metrics)


def present(found: dict[str, Any], out: Path, console: Console) -> None:
    """Print the table, and keep it as `table.md` with its plot."""
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
