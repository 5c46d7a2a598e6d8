"""Parses the answers of the embedded task. They are text from a model, which is matched and evaluated but never executed.

An answer to a countdown prompt is an expression, then any number of echoes of the target: `9+7+3-5=14=14`. Generation may cut
the last echo short. Every function accepts any text, in time linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import permutations, product
from typing import Any

NUMBER = re.compile(r"[0-9]+")
OPERATOR = re.compile(r"[-+*]")
EXPRESSION = re.compile(r"(?:0|[1-9][0-9]*)(?:[-+*](?:0|[1-9][0-9]*))*")
LONGEST = 64
"""Characters of the longest accepted expression, which bounds the size of the numbers."""


def evaluate(expression: str) -> int | None:
    """The value of numbers joined by + - *, products first, then from left to right; None for any other text.

    There are no signs, spaces, parentheses or leading zeros, and no more than `LONGEST` characters.
    """
    if len(expression) > LONGEST or not EXPRESSION.fullmatch(expression):
        return None
    first, *rest = map(int, NUMBER.findall(expression))
    total, term = 0, first
    for operator, number in zip(OPERATOR.findall(expression), rest, strict=True):
        if operator == "*":
            term *= number
        else:
            total += term
            term = number if operator == "+" else -number
    return total + term


def without_echoes(response: str, target: int) -> str | None:
    """The text before the echoes of the target; None if other text follows it."""
    start = response.find("=")
    if start < 0:
        return response
    echo, tail = f"={target}", response[start:]
    return response[:start] if (echo * (len(tail) // len(echo) + 1)).startswith(tail) else None


def solution(fields: Mapping[str, Any], response: str) -> str | None:
    """The expression of a correct answer to a countdown prompt, without its echoes; None for a wrong answer.

    A correct answer joins the given numbers, each once, by + and -, and its value is the target.
    """
    expression = without_echoes(response, fields["target"])
    if expression is None or "*" in expression or evaluate(expression) != fields["target"]:
        return None
    return expression if sorted(map(int, NUMBER.findall(expression))) == sorted(fields["numbers"]) else None


def skill(fields: Mapping[str, Any]) -> str:
    """The skill that a prompt tests, one of two. Raises ValueError for a prompt of another task."""
    name = fields.get("skill")
    if name not in ("countdown", "sort"):
        raise ValueError("this reward judges the prompts of the task countdown only; for answers in a file there is `match`")
    return name


def right(fields: Mapping[str, Any], response: str) -> bool:
    """Whether the response is correct. Raises ValueError for a prompt of another task."""
    if skill(fields) == "sort":
        return response == ",".join(map(str, sorted(fields["numbers"])))
    return solution(fields, response) is not None


def valid_answers(numbers: Sequence[int], target: int) -> frozenset[str]:
    """Every correct answer, without echoes."""
    return _answers_by_target(tuple(sorted(numbers))).get(target, frozenset())


@cache
def _answers_by_target(numbers: tuple[int, ...]) -> dict[int, frozenset[str]]:
    found: dict[int, set[str]] = {}
    for first, *rest in set(permutations(map(str, numbers))):
        for operators in product("+-", repeat=len(rest)):
            expression = first + "".join(map("".join, zip(operators, rest, strict=True)))
            if (value := evaluate(expression)) is not None:
                found.setdefault(value, set()).add(expression)
    return {target: frozenset(answers) for target, answers in found.items()}
