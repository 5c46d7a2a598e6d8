from __future__ import annotations

import re
from dataclasses import dataclass

from align.rewards import Reward
from align.types import Prompt


@dataclass(frozen=True)
class Format(Reward):
    """Whether an answer has the wanted form: 1 if `pattern` matches all of it, or the share of `tags` that it has in order.

    A tag counts if the answer has `<tag>` once and later `</tag>` once, both after the tags that count before it. `tags: [think, answer]`
    gives 1 to `<think>...</think> <answer>...</answer>`, 0.5 if one of them is left open.
    """

    pattern: str | None = None
    """A regular expression, in which `.` matches line breaks too. Exactly one of `pattern` and `tags`."""
    tags: tuple[str, ...] = ()
    """Names of tags, without brackets."""
    prefix: str = ""
    """Text that the prompt already begins the answer with, such as `<think>`, as some chat templates do."""

    def __post_init__(self):
        if (self.pattern is None) == (not self.tags):
            raise ValueError("needs exactly one of pattern and tags: tags: [think, answer]")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from error
        if len(set(self.tags)) < len(self.tags) or not all(re.fullmatch(r"[^<>/\s]+", tag) for tag in self.tags):
            raise ValueError(f"tags must be different names without brackets, not {', '.join(map(repr, self.tags))}")

    def score(self, prompt: Prompt, response: str) -> float:
        text = self.prefix + response
        if self.pattern is not None:
            return float(re.fullmatch(self.pattern, text, re.DOTALL) is not None)
        return _in_order(self.tags, text) / len(self.tags)


def _in_order(tags: tuple[str, ...], text: str) -> int:
    """How many tags are opened once and then closed once, each after those that count before it."""
    found, end = 0, 0
    for tag in tags:
        opening, closing = f"<{tag}>", f"</{tag}>"
        begins, ends = text.find(opening), text.find(closing)
        once = text.count(opening) == text.count(closing) == 1
        if once and end <= begins < ends:
            found, end = found + 1, ends + len(closing)
    return found
