"""Finds the final answer in a text: what the data sets of mathematics mark, or a regular expression."""

from __future__ import annotations

import re
from collections.abc import Callable

from align.config.suggestions import did_you_mean

MARKED = re.compile(r"####\s*\$?(-?[0-9][0-9.,]*)")
BOXED = re.compile(r"\\f?box(?:ed)?(?=[\s{])")

Extract = Callable[[str], str | None]


def hash_marks(text: str) -> str | None:
    """The number behind the last `####`, as GSM8K writes it, without commas: `#### 1,234` has 1234. None if there is none."""
    found = MARKED.findall(text)
    return found[-1].replace(",", "").rstrip(".") if found else None


def boxed(text: str) -> str | None:
    r"""What is in the last `\boxed{...}`, as MATH writes it, braces inside included. None if there is none, or it is not closed."""
    marks = list(BOXED.finditer(text))
    if not marks:
        return None
    rest = text[marks[-1].end() :]
    if not rest.startswith("{"):  # `\boxed 5$`, as some rows of MATH have it
        word = rest.split("$")[0].split()
        return word[0] if word else None
    depth = 0
    for i, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:i].strip()
    return None


NAMED: dict[str, Extract] = {"hash_marks": hash_marks, "boxed": boxed}


def extractor(name: str) -> Extract:
    """The extractor of this name, or that of a regular expression: its one group in the last match.

    Raises ValueError for a text that is neither.
    """
    if name in NAMED:
        return NAMED[name]
    try:
        pattern = re.compile(name)
    except re.error as error:
        raise ValueError(f"extract: {name!r} is no regular expression: {error}") from error
    if pattern.groups != 1:
        raise ValueError(
            f"extract: {name!r} has {pattern.groups} groups; {did_you_mean(name, NAMED)}give one of {', '.join(NAMED)}, or a regular "
            "expression with one group, which is the answer: 'Answer: (.+)'"
        )
    return lambda text: matches[-1].strip() if (matches := pattern.findall(text)) else None
