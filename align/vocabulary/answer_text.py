"""The text of an answer, as rewards and tasks read it.

Tokens that steer the model are left out: begin, end, padding and unknown tokens, and those that the chat template writes around turns.
Every other token is text, also one marked special: a format of `<think>` and `<answer>` tags is judged by its tags.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from align.vocabulary.ends import ASKED, SAID, end_ids, special_ids

TAG = re.compile(r"<(/?)([A-Za-z][\w.-]*)>")
"""A tag is text where its pair, `<x>` and `</x>`, are both tokens, even if the template writes it around an answer."""


class AnswerText:
    """Decodes answers without control tokens. `listed`: `eos_token_id` of the generation config."""

    def __init__(self, tokenizer: Any, listed: int | Sequence[int] | None = None):
        self._tokenizer = tokenizer
        tokens = {i: str(tokenizer.convert_ids_to_tokens(i)) for i in special_ids(tokenizer)}
        paired = _paired(tokens.values())
        named = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id} - {None}
        ends = set(end_ids(tokenizer, listed))
        written = {i for i in _written(tokenizer) if tokens.get(i) not in paired}
        marked = set(tokenizer.all_special_ids) | {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.hidden = frozenset(named | ends | (written & marked))
        """Ids that are left out."""
        self.tags = tuple(sorted(tokens[i] for i in marked - self.hidden if tokens[i] in paired))
        """Special tokens that are tags, and so part of the text."""

    def one(self, ids: Sequence[int]) -> str:
        return self.many([ids])[0]

    def many(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """Of lists, not of arrays: the tokenizer converts those one by one, slowly."""
        return self._tokenizer.batch_decode([[i for i in ids if i not in self.hidden] for ids in answers], skip_special_tokens=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself; a token that texts leave out has its name. Of a character in several tokens each is �."""
        texts = self.many([[i] for i in ids])
        return [self._tokenizer.convert_ids_to_tokens(i) if i in self.hidden else text for i, text in zip(ids, texts, strict=True)]


def _paired(tokens: Collection[str]) -> set[str]:
    every = set(tokens)
    tags = [(token, found) for token in every if (found := TAG.fullmatch(token))]
    return {token for token, found in tags if (f"<{found[2]}>" if found[1] else f"</{found[2]}>") in every}


def _written(tokenizer: Any) -> set[int]:
    """The special tokens that the chat template writes around turns."""
    if not tokenizer.chat_template:
        return set()
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
    found: set[int] = set()
    for messages, options in ((turns, {}), (turns[:1], {"add_generation_prompt": True})):
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except (TemplateError, TypeError, ValueError):
            continue
        found |= set(tokenizer(text, add_special_tokens=False)["input_ids"]) & special_ids(tokenizer)
    return found
