"""Sums such as `9+7+3-5`. What a model wrote is parsed, never evaluated."""

import re

SUM = re.compile(r"[0-9]{1,6}([+-][0-9]{1,6}){0,20}")


def value(text):
    """The value of a sum; None for any other text."""
    return sum(int(term) for term in re.findall(r"[+-]?[0-9]+", text)) if SUM.fullmatch(text) else None


def numbers(text):
    """The numbers in it, without their signs."""
    return [int(digits) for digits in re.findall(r"[0-9]+", text)]
