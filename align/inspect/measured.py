"""`align eval`: prints the metrics of a model on held-out problems, or of two models with their difference."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.config.recipes import load
from align.run.compared import Compared, compare
from align.run.evaluation import measure
from align.run.measured_model import recipe_of
from align.telemetry import units
from align.terminal import printable


def show(
    model: str,
    recipe: str | None,
    against: str | None,
    problems: int | None,
    samples: int | None,
    temperature: float | None,
    as_json: bool,
    out: Console,
) -> None:
    """Measure a model by a recipe, or else by that of its run; with `against` also that one, on the same problems."""
    measured = partial(
        measure, recipe=recipe_of(model) if recipe is None else load(recipe), problems=problems, samples=samples, temperature=temperature
    )
    found = measured(model)
    if against is None:
        print(json.dumps(found.metrics, indent=2)) if as_json else out.print(units.table(found.metrics))
        return
    compared = compare(found.values, measured(against).values)
    if as_json:
        print(json.dumps({name: dataclasses.asdict(one) for name, one in compared.items()}, indent=2))
    else:
        out.print(_table(compared, model, against))


def _table(compared: dict[str, Compared], one: str, other: str) -> Table:
    """Bold: the 95 % interval of the difference leaves out 0."""
    table = Table()
    for column in ("metric", printable(one), printable(other), "difference", "95 % interval", "problems", "unit"):
        table.add_column(Text(column))
    for name, found in compared.items():
        row = [units.show(name, found.one), units.show(name, found.other), units.show(name, found.difference, signed=True)]
        half, interval = found.half_width, "-"
        if half is not None:
            ends = (found.difference - half, found.difference + half)
            interval = " to ".join(units.show(name, end, signed=True) for end in ends)
        clear = half is not None and abs(found.difference) > half
        table.add_row(Text(printable(name)), *row, interval, str(found.problems), units.unit(name).label, style="bold" if clear else None)
    return table
