"""The tokens that end an answer: the tokenizer's end token, those of the generation config, and the one that closes a turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from align.errors import UserError

ASKED, SAID = "What is the capital of France", "Paris"
"""A turn to render. No template changes these words."""


def closing(tokenizer: Any) -> list[int]:
    """The tokens with which the chat template closes an assistant's turn, the special token that ends it last; empty if it has none.

    They are found by rendering a turn: what follows the assistant's text, up to the first special token. Many base models have a template
    whose turns end with `<|im_end|>` or `<|eot_id|>`, and another end token.
    """
    if not tokenizer.chat_template:
        return []
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
    try:
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
    except (TemplateError, TypeError, ValueError):
        return []  # it wants other turns: an answer then ends with the tokenizer's own token
    if SAID not in whole:
        return []  # it writes the assistant's turn otherwise, or not at all
    ids = tokenizer(whole.rpartition(SAID)[2], add_special_tokens=False)["input_ids"]
    special = special_ids(tokenizer)
    last = next((i for i, token in enumerate(ids) if token in special), None)
    return [] if last is None else ids[: last + 1]


def turn_end(tokenizer: Any) -> int | None:
    """The token that ends an assistant's turn; None without a chat template, or if a turn is closed by text alone."""
    return next(reversed(closing(tokenizer)), None)


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that no text spells: the named ones and every added one. A turn may end with an added token that is not marked special."""
    return frozenset(tokenizer.all_special_ids) | frozenset(tokenizer.added_tokens_decoder)


def end_ids(tokenizer: Any, listed: int | Sequence[int] | None) -> list[int]:
    """The tokens that end an answer, that of a turn first. `listed`: `eos_token_id` of the generation config.

    Raises UserError if there is none.
    """
    own = [turn_end(tokenizer), tokenizer.eos_token_id, *([listed] if isinstance(listed, int) else listed or [])]
    ends = list(dict.fromkeys(i for i in own if i is not None))
    if not ends:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer has no end token, so no answer could ever finish; set eos_token in "
            "tokenizer_config.json"
        )
    return ends
