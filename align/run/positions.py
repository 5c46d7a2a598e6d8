"""Whether every row of a run fits the model's positions, before anything is loaded or trained."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedConfig

from align.config.schema import Recipe
from align.errors import UserError
from align.experience.examples import Examples
from align.types import Group
from align.vocabulary.files import load_config

KEYS = ("max_position_embeddings", "max_target_positions", "max_seq_len")
"""Names of the number of positions in configurations; transformers maps others to the first."""


def positions_of(config: PreTrainedConfig) -> int | None:
    """The positions that a model has or was trained for; None for one without such a limit (Mamba, ALiBi)."""
    known = config.get_text_config(decoder=True).to_dict() | {KEYS[0]: getattr(config.get_text_config(decoder=True), KEYS[0], None)}
    return next((known[key] for key in KEYS if known.get(key) is not None), None)


def check_positions(recipe: Recipe, model_dir: str, longest_prompt: int, examples: Examples, held_out: Sequence[Group]) -> None:
    """Raises UserError for a prompt with the answer that may follow it, or a row of the data, with more tokens than positions.

    Args: longest_prompt: tokens, of all prompts that are answered; held_out: rankings that are evaluated.
    """
    answered = (0, "") if recipe.algorithm.samples else examples.longest_answered()  # refuses an answer that cannot be written
    positions = positions_of(load_config(model_dir))
    if positions is None:
        return
    if recipe.algorithm.samples and (wanted := longest_prompt + recipe.response_tokens) > positions:
        key = "sampling.max_tokens" if recipe.environment is None else "episode.max_tokens"
        raise UserError(
            f"{key}: a prompt of {longest_prompt} tokens and {recipe.response_tokens} more are {wanted}, but the model "
            f"has {positions} positions; lower {key} or shorten the prompts"
        )
    if recipe.algorithm.samples:
        return
    rows = [answered]
    rows += [(len(g.prompt.token_ids) + len(e.response_ids), f"the held-out prompt {g.prompt.id}") for g in held_out for e in g.episodes]
    longest, place = max(rows, key=lambda row: row[0])
    if longest > positions:
        raise UserError(
            f"task: {place}: prompt and answer have {longest} tokens, its end token included, but the model has {positions} positions; "
            "shorten or delete the row, or use a model with more positions"
        )
