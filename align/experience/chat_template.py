"""Formats conversations with the tokenizer's chat template, without assumptions about how a template opens and closes a turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from align.errors import UserError
from align.tasks import Example


def opened(example: Example, tokenizer: Any) -> str:
    """The conversation up to the start of the assistant's answer. Raises UserError without a template, or if it refuses the turns."""
    return _written(example, example.messages, tokenizer, add_generation_prompt=True)


def answered(example: Example, prompt: str, answer: str, tokenizer: Any) -> str:
    """The text after `prompt` (a result of `opened`) if the assistant's turn is `answer`."""
    whole = _written(example, (*example.messages, {"role": "assistant", "content": answer}), tokenizer)
    if not whole.startswith(prompt):
        raise UserError(
            f"{example.place}: with an answer, the tokenizer's chat template changes the prompt, so "
            "the start of the answer is unknown; use a model whose template does not, or prompts of plain text"
        )
    return whole[len(prompt) :]


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens without text. A turn may end with one that is not a named special token of the tokenizer (`<end_of_turn>`)."""
    return frozenset(tokenizer.all_special_ids) | {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def closed(ids: Sequence[int], special: frozenset[int], tokenizer: Any) -> list[int]:
    """The tokens of a response up to the special token that ends its turn. The end token is added if the template writes none.

    Tokens that a template writes after the turn's end (a newline, a second end token) are dropped: no engine generates them.
    """
    end, cut = len(ids), None
    while end and (ids[end - 1] in special or not tokenizer.decode([ids[end - 1]]).strip()):
        end -= 1
        if ids[end] in special:
            cut = end + 1
    return [*ids, tokenizer.eos_token_id] if cut is None else list(ids[:cut])


def _written(example: Example, messages: Sequence[Any], tokenizer: Any, **options: Any) -> str:
    if not tokenizer.chat_template:
        raise UserError(
            f"{example.place}: is a conversation, and this model's tokenizer has no chat template; use a model that was tuned "
            "for conversations, or prompts of plain text"
        )
    try:
        return tokenizer.apply_chat_template([dict(turn) for turn in messages], tokenize=False, **options)
    except TemplateError as error:
        raise UserError(f"{example.place}: the tokenizer's chat template refuses the conversation: {error}") from error
