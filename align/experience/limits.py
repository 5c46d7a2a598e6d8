"""Prompts and answers that are longer than a run takes: refused, left out or cut, as the task says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from align.errors import UserError
from align.tasks import Example, Task
from align.types import Prompt


class Fitted(NamedTuple):
    examples: list[Example]
    prompts: list[Prompt]
    notes: list[str]
    """Lines for the user: how many were left out or cut."""


def fit_prompts(task: Task, examples: Sequence[Example], prompts: Sequence[Prompt], tokenizer: Any, what: str = "prompts") -> Fitted:
    """Examples and prompts of at most `task.max_prompt_tokens` tokens, by the rule `task.too_long`.

    A prompt that is cut keeps its last tokens, and the token with which the tokenizer begins a text. Its text stays whole. Raises UserError
    for the first that is too long under `stop`, for a conversation that would be cut, and if none is left.
    """
    limit = task.max_prompt_tokens
    over = [] if limit is None else [i for i, p in enumerate(prompts) if len(p.token_ids) > limit]
    if limit is None or not over:
        return Fitted(list(examples), list(prompts), [])
    share = f"{len(over):,} of {len(prompts):,} {what}"
    if task.too_long == "stop":
        longest = max(len(prompts[i].token_ids) for i in over)
        raise UserError(
            f"{examples[over[0]].place}: the prompt has {len(prompts[over[0]].token_ids)} tokens; task.max_prompt_tokens is {limit}, and "
            f"{share} are longer (the longest has {longest}); raise it, shorten them, or leave such rows out with task.too_long: drop"
        )
    if task.too_long == "drop":
        if len(over) == len(prompts):
            raise UserError(f"task: every one of {len(prompts):,} {what} is beyond task.max_prompt_tokens, {limit}; raise it")
        dropped = set(over)
        kept = [i for i in range(len(prompts)) if i not in dropped]
        note = f"task: {share} beyond task.max_prompt_tokens, {limit}, are left out"
        return Fitted([examples[i] for i in kept], [prompts[i] for i in kept], [note])
    chat = next((examples[i] for i in over if examples[i].messages), None)
    if chat is not None:
        raise UserError(
            f"{chat.place}: the prompt is a conversation, which loses the opening of its turns if it is cut; leave such rows out with "
            "task.too_long: drop"
        )
    cut = list(prompts)
    for i in over:
        cut[i] = replace(prompts[i], token_ids=_last(prompts[i].token_ids, limit, tokenizer.bos_token_id))
    return Fitted(list(examples), cut, [f"task: {share} beyond task.max_prompt_tokens, {limit}, lose their first tokens"])


def _last(ids: tuple[int, ...], limit: int, begin: int | None) -> tuple[int, ...]:
    if begin is None or ids[0] != begin or limit == 1:
        return ids[-limit:]
    return (begin, *ids[1 - limit :])


def answer_fits(task: Task, example: Example, name: str, length: int, max_tokens: int) -> bool:
    """Whether an answer of `length` tokens, end token included, is within `max_tokens`. Raises UserError for one that is not, unless
    `task.too_long` is `drop`."""
    if length > max_tokens and task.too_long != "drop":
        raise UserError(
            f"{example.place}: {name} has {length} tokens, its end token included; sampling.max_tokens is {max_tokens}; raise "
            "it, shorten the answer, or leave such rows out whole with task.too_long: drop"
        )
    return length <= max_tokens
