"""Shared by all engines: the length check, and episodes from sampled tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from align.engines import Sampling
from align.errors import UserError
from align.types import Episode, Group, Prompt


def check_room(config: Any, sampling: Sampling, max_prompt_tokens: int) -> None:
    """Raises UserError if prompt and response exceed the model's positions."""
    positions = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    wanted = max_prompt_tokens + sampling.max_tokens
    if positions is not None and wanted > positions:
        raise UserError(
            f"sampling.max_tokens: a prompt of {max_prompt_tokens} tokens and {sampling.max_tokens} more are {wanted}, "
            f"but the model has {positions} positions; lower sampling.max_tokens or shorten the prompts"
        )


def group(prompt: Prompt, drawn: Sequence[tuple[np.ndarray, np.ndarray, bool]], texts: Sequence[str], version: int) -> Group:
    """Single-turn episodes of one prompt from (token ids int32 [n], log-probs float32 [n], finished) and their texts."""
    return Group(
        prompt=prompt,
        episodes=tuple(
            Episode.single_turn(ids, text, logp, version, finished) for (ids, logp, finished), text in zip(drawn, texts, strict=True)
        ),
    )
