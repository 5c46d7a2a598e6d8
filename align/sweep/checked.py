"""Checks that every cell's recipe builds, that no two are equal, and that each equals the recipe of its existing runs."""

from __future__ import annotations

from typing import Any

import yaml

from align.config import nodes
from align.config.recipes import build, load
from align.config.schema import Recipe
from align.errors import RecipeError, UserError
from align.sweep.plan import Cell, Plan, Run


def checked(plan: Plan) -> dict[Cell, Recipe]:
    """The recipe of each cell, with seed 0. Loads nothing heavy and runs nothing.

    Raises: UserError naming the first cell that cannot run.
    """
    for file in plan.recipes.values():
        load(file, [*plan.overrides, "seed=0"])  # report errors common to all cells without naming a cell
    recipes: dict[Cell, Recipe] = {}
    seen: dict[str, Cell] = {}
    for cell in plan.cells:
        try:
            recipe = load(cell.recipe, [*plan.overrides, *cell.changes, "seed=0"])
            if recipe.model.recipe is not None:
                load(recipe.model.recipe)
        except RecipeError as error:
            raise UserError(f"the cell {cell} cannot run, so none was started: {error}") from error
        same = seen.setdefault(repr(nodes.resolved(recipe)), cell)
        if same is not cell:
            raise UserError(f"the cells {same} and {cell} are the same recipe; leave one out")
        recipes[cell] = recipe
    for run in plan.runs:
        _same_as_before(run, nodes.resolved(recipes[run.cell]) | {"seed": run.seed})
    return recipes


def _same_as_before(run: Run, now: dict) -> None:
    kept = run.folder / "recipe.yaml"
    if not kept.is_file():
        return
    try:
        # Rebuild the recipe, so that a key that is newer than the run gets its default.
        before = nodes.resolved(build(yaml.safe_load(kept.read_text())))
    except (RecipeError, yaml.YAMLError) as error:
        raise UserError(f"{kept} can no longer be read, so its run cannot be kept: {error}; choose another --out") from error
    different = _first_difference(before, now)
    if different:
        key, old, new = different
        raise UserError(f"{run.folder} was run with {key}={old}, but this sweep has {new}: choose another --out, or delete that folder")


def _first_difference(before: Any, now: Any, where: str = "") -> tuple[str, Any, Any] | None:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return None if before == now else (where, before, now)
    for key in dict.fromkeys([*before, *now]):
        found = _first_difference(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
        if found:
            return found
    return None
