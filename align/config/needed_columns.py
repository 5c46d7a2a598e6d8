"""Checks that the batch columns that a part reads exist before the update."""

from __future__ import annotations

from typing import Any

from align.config.docstrings import format_part
from align.config.parts import Setting
from align.types import EARLY, REWARDED

GROUPS = "groups"
"""In `needs` of an algorithm or of its parts: no micro-batch splits a group, all answers to one prompt."""


def missing_column(kind: str, part: Any, setting: Setting) -> str | None:
    """Why this recipe's batches lack a column of the part's `needs`, or None."""
    if unknown := part.needs - EARLY:
        return (
            f"{kind} {format_part(part)} needs {', '.join(sorted(unknown))}, which no column of a batch is called; there are: "
            f"{', '.join(sorted(EARLY))}"
        )
    if "values" in part.needs and setting.recipe.algorithm.critic is None:
        return (
            f"{kind} {format_part(part)} needs the values of a critic, and {setting.recipe.algorithm.recipe_name} trains none: use ppo, or "
            "another"
        )
    if part.needs & REWARDED and not setting.recipe.algorithm.rewarded:
        return f"{kind} {format_part(part)} looks at rewards, and this algorithm's data have none: use another"
    return None
