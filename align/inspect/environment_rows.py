"""What `explain` says of an environment: its limits, and which tokens are trained."""

from __future__ import annotations

from align.config.docstrings import format_part, summary
from align.config.formulas import place
from align.config.schema import Recipe
from align.inspect.rows import Row


def environment_rows(recipe: Recipe) -> list[Row]:
    """Nothing without an environment."""
    if recipe.environment is None:
        return []
    part, episode, turn = recipe.environment, recipe.episode, recipe.sampling.max_tokens
    return [
        Row("environment", f"{format_part(part)}: {summary(type(part))}", place(type(part))),
        Row(
            "episode",
            f"at most {episode.max_turns} assistant turns of {turn} tokens, {recipe.response_tokens} tokens in all; a call of the "
            f"environment may take {episode.seconds:g} s",
        ),
        Row("trained", f"the tokens of the assistant's turns, with their end tokens; those of the role {part.role} are context alone"),
        Row("judged", "the last assistant turn; what the environment gives for a turn is added, and paid at the last token of the turn"),
        Row("penalties", "regularizers count the trained tokens alone; a summed credit reaches the trained tokens of later turns"),
    ]
