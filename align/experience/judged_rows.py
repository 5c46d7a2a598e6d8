"""The rows that a reward judges answers to: each has the fields that the reward needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from align.config.docstrings import format_part
from align.config.parts import location
from align.config.schema import Recipe
from align.errors import RecipeError
from align.experience import task_data
from align.tasks import Example


def examples(recipe: Recipe) -> list[Example]:
    """The training examples of a recipe. Raises RecipeError for the first whose answers its reward could not judge."""
    found = task_data.examples(recipe.task)
    if recipe.reward is not None and recipe.algorithm.samples:
        check(recipe.reward, found)
    return found


def check(reward: Any, rows: Sequence[Example]) -> None:
    """Raises RecipeError for the first row that lacks a field of the reward's `required_fields`, or has null there."""
    names = reward.required_fields
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise RecipeError("reward", f"{location(type(reward))}: required_fields is {names!r:.60}; it must be a tuple of names: ('answer',)")
    for row in rows:
        for name in names:
            if row.fields.get(name) is None:
                lacking = sum(r.fields.get(name) is None for r in rows)
                raise RecipeError(
                    "reward",
                    f"{format_part(reward)} judges by the field {name}, which {lacking} of {len(rows)} rows lack, the first at {row.place}"
                    ": give each row one, or use another reward",
                )
        if (reason := reward.refuse_row(row.fields)) is not None:
            raise RecipeError("reward", f"{format_part(reward)} cannot judge {row.place}: {reason}")
