"""Log-probs of demonstrated tokens under a teacher, which rows of the data may bring: the field `teacher_logp`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from align.errors import UserError
from align.types import Episode, Prompt

FIELD = "teacher_logp"


def of(demonstrations: Sequence[tuple[Prompt, Episode]]) -> Tensor | None:
    """float32 [T], the numbers of all rows end to end; None where a row has none, or not one for each token."""
    columns = [prompt.fields.get(FIELD) for prompt, _ in demonstrations]
    fits = all(isinstance(c, list) and len(c) == episode.length for c, (_, episode) in zip(columns, demonstrations, strict=True))
    return torch.tensor([x for column in columns if column is not None for x in column], dtype=torch.float32) if fits else None


def refuse(prompt: Prompt, tokens: int, place: str) -> None:
    """Raises UserError for a field that is not one log-prob for each of `tokens` tokens, the end token included."""
    column = prompt.fields[FIELD]
    if not isinstance(column, list) or len(column) != tokens:
        has = f"{len(column)} numbers" if isinstance(column, list) else f"no list but {column!r:.40}"
        raise UserError(
            f"{place}: {FIELD} has {has}, and the answer has {tokens} tokens, its end token included: give one log-prob for each, "
            "by the policy's tokenizer"
        )
    wrong = [x for x in column if isinstance(x, bool) or not isinstance(x, int | float) or not -math.inf < x <= 0]
    if wrong:
        raise UserError(f"{place}: {FIELD} holds {wrong[0]!r:.40}, which is no log-prob: give finite numbers of at most 0, in nats")
