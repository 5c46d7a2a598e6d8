"""Pairs whose answers are shown again as revisions of a draft (SRPO)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from align.errors import UserError
from align.experience import chat_template
from align.tasks import Example
from align.types import Episode, Group, Prompt, Segment
from align.vocabulary.continuation import Continuation


def with_drafts(
    groups: Sequence[Group], examples: Sequence[Example], tokenizer: Any, continuation: Continuation, revision: str
) -> list[Group]:
    """Each pair (w, l) as six episodes: w, l, and each of them after prompt, draft and `revision`, in this order: w
    after l, l after l, w after w, l after w.

    After a text the draft and `revision` follow as they are; in a conversation the draft is the assistant's turn and `revision` the
    user's. What stands before an answer is not trained. Raises UserError for a ranking of more than two answers, and where the chat
    template changes the prompt if turns follow it.
    """
    if (more := next((e for e in examples if len(e.ranked) != 2), None)) is not None:
        raise UserError(
            f"{more.place} has {len(more.ranked)} answers in order of preference, and revisions are learned from pairs: split it"
        )
    texts = [
        (g.prompt.text, _draft(e, g.prompt, draft, tokenizer, revision))
        for g, e in zip(groups, examples, strict=True)
        for draft in e.ranked
    ]
    drafts = iter(continuation.many(texts))
    return [_shown(group, next(drafts), next(drafts)) for group in groups]


def _draft(e: Example, prompt: Prompt, draft: str, tokenizer: Any, revision: str) -> str:
    """The text between the prompt and a revised answer."""
    if not e.messages:
        return draft + revision
    turns = (*e.messages, {"role": "assistant", "content": draft}, {"role": "user", "content": revision.strip()})
    whole = chat_template.conversation_start(replace(e, messages=turns), tokenizer)
    if not whole.startswith(prompt.text):
        raise UserError(
            f"{e.place}: with a draft after it, the tokenizer's chat template changes the prompt, so no revision can follow it; use a "
            "model whose template does not, or prompts of plain text"
        )
    return whole[len(prompt.text) :]


def _shown(group: Group, after_better: Sequence[int], after_worse: Sequence[int]) -> Group:
    better, worse = group.episodes

    def revised(answer: Episode, draft: Sequence[int]) -> Episode:
        context = Segment(role="user", token_ids=np.array(draft, dtype=np.int32), trained=False)
        return replace(answer, segments=(context, *answer.segments))

    return replace(
        group,
        episodes=(
            better,
            worse,
            revised(better, after_worse),
            revised(worse, after_worse),
            revised(better, after_better),
            revised(worse, after_better),
        ),
    )
