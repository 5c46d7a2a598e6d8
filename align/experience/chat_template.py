"""Formats conversations with the tokenizer's chat template, without assumptions about how a template opens and closes a turn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Environment, meta
from jinja2.exceptions import TemplateError

from align.errors import UserError
from align.tasks import Example
from align.vocabulary.ends import special_ids, turn_end

GIVEN = frozenset({"messages", "add_generation_prompt", "continue_final_message", "raise_exception", "strftime_now"})
"""Variables and functions that transformers gives every template."""


def conversation_start(example: Example, tokenizer: Any) -> str:
    """The conversation up to the start of the assistant's answer.

    Raises UserError without a template, if it refuses the turns or leaves out the last one, and for an option of the example that it does
    not read.
    """
    text = _written(example, example.messages, tokenizer, add_generation_prompt=True)
    last = example.messages[-1]
    if last["role"] == "user" and not _has(text, last["content"]):
        raise UserError(
            f"{example.place}: the tokenizer's chat template leaves out or changes the last turn, {last['content']!r:.60}: the prompt is "
            f"{text!r:.60}; use a model whose template writes it"
        )
    return text


def text_after(example: Example, prompt: str, answer: str, tokenizer: Any) -> str:
    """The text after `prompt` (a result of `conversation_start`) if the assistant's turn is `answer`.

    Where a template opens an answer with text that it leaves out of a written turn (an empty `<think>` block), the answer follows that
    text, as an engine would write it. Raises UserError if an answer changes the turns before it, and if the template changes more of the
    answer than its white space: many cut off what is before a `</think>`.
    """
    whole = _written(example, (*example.messages, {"role": "assistant", "content": answer}), tokenizer)
    if whole.startswith(prompt):
        after = whole[len(prompt) :]
        if not _has(after, answer):
            raise UserError(
                f"{example.place}: the tokenizer's chat template changes the answer {answer!r:.60} to {after!r:.60}, which would be "
                "trained instead; use a template that writes answers as they are, or prompts of plain text"
            )
        return after
    asked, said = _written(example, example.messages, tokenizer), answer.strip()
    if said and said in whole and whole.startswith(asked) and prompt.startswith(asked):
        return answer + whole.rpartition(said)[2]
    raise UserError(
        f"{example.place}: with an answer, the tokenizer's chat template changes the prompt, so "
        "the start of the answer is unknown; use a model whose template does not, or prompts of plain text"
    )


def _has(text: str, part: str) -> bool:
    """Whether a text has a part, apart from white space, which many templates trim."""
    return "".join(part.split()) in "".join(text.split())


def closer_of(tokenizer: Any) -> Closer:
    """The `Closer` that ends the tokens of an answer in a conversation."""
    return Closer(turn_end(tokenizer), special_ids(tokenizer), tokenizer.eos_token_id)


class Closer:
    """Cuts an answer behind the token that ends its turn. The end token is added if the template writes none.

    Tokens that a template writes after the turn's end (a newline, a second end token) are dropped: no engine generates them.
    """

    def __init__(self, end: int | None, special: frozenset[int], otherwise: int):
        self._end, self._special, self._otherwise = end, special, otherwise

    def __call__(self, ids: Sequence[int]) -> list[int]:
        if self._end is not None and self._end in ids:
            return list(ids[: len(ids) - list(reversed(ids)).index(self._end)])
        return list(ids) if ids and ids[-1] in self._special else [*ids, self._otherwise]


def options(example: Example, tokenizer: Any) -> dict[str, Any]:
    """What the template gets beside the turns: the example's own options, and its fields that the template reads.

    Raises UserError for an option that the template does not read.
    """
    read = variables(tokenizer, example.template.get("tools"))
    unread = sorted(example.template.keys() - read)
    if unread:
        raise UserError(
            f"{example.place}: the tokenizer's chat template does not read {', '.join(unread)}, so it has no effect; it reads "
            f"{', '.join(sorted(read)) or 'the turns alone'}. Correct the name, delete it, or use a model whose template reads it"
        )
    return {name: value for name, value in example.fields.items() if name in read and value is not None} | dict(example.template)


def columns(examples: Iterable[Example], tokenizer: Any) -> list[str]:
    """The fields of conversations, by name, that go to the template because it reads a variable of that name."""
    found: set[str] = set()
    for e in examples:
        if e.messages:
            found |= e.fields.keys() & variables(tokenizer, e.template.get("tools")) - e.template.keys()
    return sorted(found)


def variables(tokenizer: Any, tools: Any = None) -> frozenset[str]:
    """The names that the template reads beside the turns, such as `tools` and `enable_thinking`."""
    return _variables(tokenizer.get_chat_template(tools=tools)) - tokenizer.special_tokens_map.keys()


@lru_cache(maxsize=16)
def _variables(template: str) -> frozenset[str]:
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    # A tag of transformers alone, which marks the assistant's text.
    tree = environment.parse(re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template))
    return frozenset(meta.find_undeclared_variables(tree)) - GIVEN - environment.globals.keys()


def _written(example: Example, messages: Sequence[Mapping[str, Any]], tokenizer: Any, **flags: Any) -> str:
    if not tokenizer.chat_template:
        raise UserError(
            f"{example.place}: is a conversation, and this model's tokenizer has no chat template; use a model that was tuned "
            "for conversations, or prompts of plain text"
        )
    try:
        given = options(example, tokenizer)
        return tokenizer.apply_chat_template([dict(turn) for turn in messages], tokenize=False, **flags, **given)
    except (TemplateError, TypeError, ValueError) as error:
        raise UserError(f"{example.place}: the tokenizer's chat template refuses the conversation: {error}") from error
