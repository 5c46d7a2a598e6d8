"""Rewards inside an answer: from the character where a step ends to the token that writes it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np

from align.types import Episode


def at_tokens(episode: Episode, steps: Sequence[tuple[int, float]], decode: Callable[[Sequence[int]], str]) -> np.ndarray:
    """float32 [n], what each trained token is paid. Args: steps: (character of the text, reward); decode: as the engine made the text.

    A step that ends in a tool's output is paid at the last trained token before that, which brought it about; before the first trained
    token, at that.
    """
    paid, trained_at, ids = np.zeros(episode.length, dtype=np.float32), episode.trained_at, episode.response_ids.tolist()
    for character, reward in steps:
        written = _writing(ids, episode.text[: character + 1], decode)
        paid[max(np.searchsorted(trained_at, written, side="right") - 1, 0)] += reward
    return paid


def _writing(ids: Sequence[int], wanted: str, decode: Callable[[Sequence[int]], str]) -> int:
    """Index of the first token after which this beginning of the text stands as the whole answer has it."""
    # Of a character in several tokens all but the last decode to something else; the whole answer needs no asking.
    return bisect_left(range(len(ids) - 1), True, key=lambda t: decode(ids[: t + 1]).startswith(wanted))
