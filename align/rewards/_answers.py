"""Finds the final answer in a text, and compares answers. Pure functions of text; each takes time linear in its length."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal

BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{)?")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
NUMBER = re.compile(r"(?<!\w)[-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,6})?")
DECORATION = re.compile(r"\\?[$%€£]|\\[,!;: ]|[{}]|\s")
"""What is written around the digits of a number: currency, per cent, and the spaces of LaTeX."""


def hash_marks(text: str) -> str | None:
    """What follows the last `####` on its line, as in GSM8K; None without a mark."""
    _, mark, after = text.rpartition("####")
    return after.strip().partition("\n")[0].strip() if mark else None


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` or `\fbox{...}` holds, braces balanced (`\{` and `\}` are no braces); None if it is not closed.

    `\boxed 12` holds what follows on its line up to a `$`, as some solutions of MATH are written.
    """
    last = None
    for last in BOX.finditer(text):  # noqa: B007  (the last one)
        pass
    if last is None:
        return None
    if last[1] is None:
        return re.split(r"[$\n]", text[last.end() :], maxsplit=1)[0].strip()
    depth = 1
    for brace in BRACE.finditer(text, last.end()):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if not depth:
            return text[last.end() : brace.start()].strip()
    return None


def last_number(text: str) -> str | None:
    """The last number in the text: `-1,234.50` of `3 of them cost -1,234.50 dollars.`; None without one.

    A minus after a letter or digit is an operator and no sign: `7-5` ends with 5.
    """
    found = None
    for found in NUMBER.finditer(text):  # noqa: B007  (the last one)
        pass
    return None if found is None else found[0]


def whole(text: str) -> str:
    """The text itself, without white space around it."""
    return text.strip()


EXTRACTIONS: Mapping[str, Callable[[str], str | None]] = {f.__name__: f for f in (whole, hash_marks, boxed, last_number)}
"""By the name that a recipe gives them."""


def extraction(name: str) -> Callable[[str], str | None]:
    """The function of that name, or of a regular expression with one group: what the group has in the last match.

    Raises ValueError for a text that is neither.
    """
    if name in EXTRACTIONS:
        return EXTRACTIONS[name]
    try:
        pattern = re.compile(name)
    except re.error as error:
        raise ValueError(f"{name!r} is no regular expression: {error}") from error
    if pattern.groups != 1:
        raise ValueError(f"{name!r} is none of {', '.join(EXTRACTIONS)}, and no regular expression with one group such as 'Answer: (.*)'")

    def last_match(text: str) -> str | None:
        found = [group for group in pattern.findall(text) if group]
        return found[-1].strip() if found else None

    return last_match


def number(text: str) -> Decimal | None:
    r"""The value of a text that is a number and nothing else; None for any other text.

    Thousands commas, currency, per cent signs, LaTeX spaces and a full stop at the end are dropped: `$1,234.50`, `1234.5` and
    `1{,}234.5\%` are equal. A per cent sign does not divide by 100.
    """
    plain = DECORATION.sub("", text).replace("−", "-").removesuffix(".")
    return Decimal(plain.replace(",", "")) if NUMBER.fullmatch(plain) else None


def equal(one: str, other: str, *, as_numbers: bool = True) -> bool:
    """Whether two answers are the same: as numbers if both are numbers, else as texts, any white space being one space."""
    values = (number(one), number(other)) if as_numbers else (None, None)
    if None not in values:
        return values[0] == values[1]
    return " ".join(one.split()) == " ".join(other.split())
