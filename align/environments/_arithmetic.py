"""Evaluates arithmetic that a model wrote. The text is parsed and never executed."""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction

ALLOWED = re.compile(r"[0-9.+\-*/() ]+")
LONGEST = 64
"""Characters of the longest accepted expression, which bounds the size of the numbers."""
BINARY = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def evaluate(expression: str) -> Fraction | None:
    """The exact value of numbers joined by + - * / with parentheses; None for any other text, and for a division by 0."""
    text = expression.strip()
    if len(text) > LONGEST or not ALLOWED.fullmatch(text):
        return None
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def shown(value: Fraction) -> str:
    """A whole number with all digits, and any other number with six significant ones."""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"


def _value(node: ast.expr) -> Fraction:
    """Raises ValueError for anything but numbers, the four operations and signs."""
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        return BINARY[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
        return UNARY[type(node.op)](_value(node.operand))
    raise ValueError(f"{type(node).__name__} is no arithmetic")
