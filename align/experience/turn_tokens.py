"""The tokens between two assistant turns: what an environment says, with the markers that a chat template writes around it.

What the policy wrote is never tokenized again. The markers are found by rendering a conversation with an assistant's turn and a turn that
answers it: what stands behind the assistant's end token is the text before the next assistant turn.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError

from align.errors import UserError
from align.types import Prompt
from align.vocabulary.continuation import Continuation
from align.vocabulary.ends import ASKED, SAID, closing

SHOWN = 5
"""Characters that an error lists."""
REPLY = "Lyon"
"""An answer to render. No template changes this word."""


class Marked(NamedTuple):
    """A text with its tokens."""

    text: str
    ids: list[int]


class TurnTokens:
    """Tokenizes the turns of this role. A text cannot spell a special token, so no environment can end a turn or open another."""

    def __init__(self, tokenizer: Any, role: str):
        self._tokenizer, self._role = tokenizer, role
        self._texts, self._markers = Continuation(tokenizer, split_special_tokens=True), Continuation(tokenizer)
        self._known: dict[str, tuple[Marked, Marked]] = {}
        self._read: dict[str, bool] = {}

    def after(self, prompt: Prompt, before: str, text: str) -> Marked:
        """The turn `text` of an episode of this prompt, up to the first token of the next assistant turn.

        Args: before: what the episode has so far, the prompt included. Raises UserError where the chat template writes no such turn, and
        ValueError for a character that the tokenizer has no token for: the policy would not read it.
        """
        if unread := [c for c in dict.fromkeys(text) if not self._reads(c)]:
            raise ValueError(f"the tokenizer has no token for {', '.join(map(repr, unread[:SHOWN]))} of {text[:40]!r}")
        if not prompt.messages:
            return Marked(text, self._texts.many([(before, text)])[0])
        opening, closes = self.markers(prompt)
        inner = self._texts.many([(opening.text, text)])[0]
        return Marked(opening.text + text + closes.text, [*opening.ids, *inner, *closes.ids])

    def _reads(self, character: str) -> bool:
        """Whether the tokenizer makes a token of a character, and not only a special one. White space may be part of another token."""
        if character not in self._read:
            ids = self._tokenizer(character, add_special_tokens=False)["input_ids"]
            seen = not character.isprintable() or character.isspace()
            self._read[character] = seen or not set(self._tokenizer.all_special_ids).issuperset(ids)
        return self._read[character]

    def markers(self, prompt: Prompt) -> tuple[Marked, Marked]:
        """What the chat template writes before and behind a turn in this prompt's conversation, the latter up to the assistant's turn."""
        key = json.dumps(dict(prompt.template), sort_keys=True, default=str)
        if key not in self._known:
            self._known[key] = self._rendered(prompt)
        return self._known[key]

    def _rendered(self, prompt: Prompt) -> tuple[Marked, Marked]:
        turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}, {"role": self._role, "content": REPLY}]
        remedy = "give the environment role: user, or use a model whose template writes such turns"
        try:
            whole = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **prompt.template)
        except (TemplateError, TypeError, ValueError) as error:
            raise UserError(
                f"environment: the tokenizer's chat template refuses a turn of the role {self._role} ({error}): {remedy}"
            ) from error
        before, said, after = whole.partition(SAID)
        opening, replied, closes = after.partition(REPLY)
        if not said or not replied:
            raise UserError(f"environment: the tokenizer's chat template leaves out a turn of the role {self._role}: {remedy}")
        ids, ended = self._markers.many([(before + said, opening)])[0], closing(self._tokenizer)
        ids = ids[len(ended) :] if ids[: len(ended)] == ended else ids
        return Marked(self._tokenizer.decode(ids), ids), Marked(
            closes, self._markers.many([(before + said + opening + replied, closes)])[0]
        )
