"""How the recipe of a resumed run differs from the recipe in the folder of the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.config import nodes, yaml_files
from align.config.schema import Optimizer, Recipe
from align.errors import UserError
from align.learner.optimizer import schedule
from align.run.checkpoints import steps


def changes(run_dir: Path, node: dict[str, Any]) -> list[str]:
    """`KEY: OLD -> NEW` for each key that differs between the folder's recipe and the resolved recipe `node`.

    Raises UserError if the folder's recipe is damaged."""
    recipe = yaml_files.load(run_dir / "recipe.yaml")
    if not isinstance(recipe.get("steps"), int):
        raise UserError(f"{run_dir / 'recipe.yaml'} is damaged: it names no steps; put it back, or copy the recipe of this command there")
    before, now = (nodes.learned_from(Recipe, r) for r in (recipe, node))
    completed = max(steps(run_dir), default=recipe["steps"])
    return [*_changes(before, now, ""), *_verdict_changes(recipe, node), *_schedule_notes(recipe, node, completed)]


def _verdict_changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """`evaluation.correct`, where a curriculum draws prompts by it."""
    if all(recipe.get("curriculum") is not None for recipe in (old, new)):
        before, now = ((recipe.get("evaluation") or {}).get("correct") for recipe in (old, new))
        yield from _changes(before, now, "evaluation.correct")


def _schedule_notes(old: dict[str, Any], new: dict[str, Any], step: int) -> Iterator[str]:
    """A note if another number of steps changes the learning rate: a schedule reaches its end at the last step."""
    optimizer = nodes.build(Optimizer, new.get("optimizer", {}), "optimizer")
    rates = [optimizer.lr * schedule(optimizer, min(step, recipe["steps"] - 1), recipe["steps"]) for recipe in (old, new)]
    if old["steps"] != new["steps"] and rates[0] != rates[1]:
        kind = optimizer.schedule
        yield f"steps: {old['steps']} -> {new['steps']}, which stretches the {kind} schedule: lr is {rates[1]:.3g} now, not {rates[0]:.3g}"


def _changes(old: Any, new: Any, where: str) -> Iterator[str]:
    # With another name the keys belong to another part.
    if isinstance(old, dict) and isinstance(new, dict) and old.get("name") == new.get("name"):
        for key in dict.fromkeys([*old, *new]):
            yield from _changes(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    elif old != new:
        yield f"{where}: {_written(old)} -> {_written(new)}"


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
