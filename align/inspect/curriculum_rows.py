"""What `explain` says of a curriculum: the probability of a prompt."""

from __future__ import annotations

from align.config.docstrings import format_part, summary
from align.config.formulas import formula, place, symbols
from align.config.schema import Recipe
from align.inspect.rows import Row


def curriculum_rows(recipe: Recipe) -> list[Row]:
    """Nothing without a curriculum."""
    part = recipe.curriculum
    if part is None:
        return []
    return [
        Row("rule", f"{format_part(part)}: {summary(type(part))}", place(type(part))),
        Row("p", f"the probability that a prompt is drawn next is proportional to {formula(part)}; without replacement in a round"),
        *(Row(symbol, meaning) for symbol, meaning in symbols(part).items()),
        Row("passes", f"an answer with a reward of {recipe.evaluation.correct:g} or more (evaluation.correct)"),
    ]
