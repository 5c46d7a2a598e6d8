"""Rewards inside an answer: from the character where a step ends to the token that writes it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np

from align.types import Rollout


def at_tokens(rollout: Rollout, steps: Sequence[tuple[int, float]], decode: Callable[[Sequence[int]], str]) -> np.ndarray:
    """float32 [n], what each token is paid. Args: steps: (character of the response, reward); decode: as the engine made the text."""
    paid = np.zeros(len(rollout.token_ids), dtype=np.float32)
    for character, reward in steps:
        paid[_writing(rollout, character, decode)] += reward
    return paid


def _writing(rollout: Rollout, character: int, decode: Callable[[Sequence[int]], str]) -> int:
    """Index of the first token after which this character stands as the whole answer has it."""
    ids, wanted = rollout.token_ids.tolist(), rollout.text[: character + 1]
    # Of a character in several tokens all but the last decode to something else; the whole answer needs no asking.
    return bisect_left(range(len(ids) - 1), True, key=lambda t: decode(ids[: t + 1]).startswith(wanted))
