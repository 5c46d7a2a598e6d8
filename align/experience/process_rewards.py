"""Process rewards: maps the character where a step ends to the token that completes it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np

from align.types import Episode


def at_tokens(episode: Episode, steps: Sequence[tuple[int, float]], decode: Callable[[Sequence[int]], str]) -> np.ndarray:
    """The reward of each trained token, float32 [n].

    Args: steps: (character of the text, reward); decode: the engine's conversion of tokens to text.
    The reward of a step that ends in a tool's output goes to the last trained token before it, or else to the first trained token.
    """
    paid, trained_at, ids = np.zeros(episode.length, dtype=np.float32), episode.trained_at, episode.response_ids.tolist()
    first = 0 if episode.played is None else len(ids) - len(episode.segments[-1].token_ids)  # where the text begins
    for character, reward in steps:
        written = first + _first_token_of(ids[first:], episode.text[: character + 1], decode)
        paid[max(np.searchsorted(trained_at, written, side="right") - 1, 0)] += reward
    return paid


def at_turn_ends(episode: Episode, rewards: Sequence[float]) -> np.ndarray:
    """The reward of each trained token, float32 [n]: those of the assistant's turns, each at the last token of its turn, or none."""
    paid = np.zeros(episode.length, dtype=np.float32)
    if rewards:
        ends = np.cumsum([len(segment.token_ids) for segment in episode.segments if segment.trained])
        paid[ends - 1] = rewards
    return paid


def _first_token_of(ids: Sequence[int], wanted: str, decode: Callable[[Sequence[int]], str]) -> int:
    """Index of the first token whose prefix decodes to a text that starts with `wanted`."""
    # A character of several tokens decodes correctly only with its last token; the whole answer always does.
    return bisect_left(range(len(ids) - 1), True, key=lambda t: decode(ids[: t + 1]).startswith(wanted))
