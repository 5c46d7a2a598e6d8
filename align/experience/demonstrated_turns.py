"""Demonstrations of several turns: the assistant's turns are trained, what a tool said between them is context."""

from __future__ import annotations

from typing import Any

import numpy as np

from align.experience.turn_tokens import TurnTokens
from align.tasks import Example
from align.types import Episode, Prompt, Segment
from align.vocabulary.continuation import Continuation
from align.vocabulary.ends import turn_end


def before_the_answer(example: Example, prompt: Prompt, tokenizer: Any) -> tuple[Segment, ...]:
    """The segments of `example.turns`, tokenized as a rollout has them: an assistant's turn closes with the end token of an answer."""
    assistant, end = Continuation(tokenizer), turn_end(tokenizer) if prompt.messages else tokenizer.eos_token_id
    segments, written = [], prompt.text
    for role, text in example.turns:
        if role == "assistant":
            ids, added = [*assistant.many([(written, text)])[0], end], text
        else:
            added, ids = TurnTokens(tokenizer, role).after(prompt, written, text)
        segments.append(Segment(role=role, token_ids=np.array(ids, dtype=np.int32), trained=role == "assistant"))
        written += added
    return tuple(segments)


def longest_turn(episode: Episode) -> int:
    """Trained tokens of the longest turn: what `sampling.max_tokens` limits."""
    return max(len(segment.token_ids) for segment in episode.segments if segment.trained)
