"""The calculator: exact, bounded, and nothing that a model writes is executed."""

from __future__ import annotations

from fractions import Fraction

import pytest

from align.config.nodes import build_part
from align.environments import Turn
from align.environments._arithmetic import evaluate, shown
from align.errors import RecipeError
from align.types import Prompt

PROMPT = Prompt(id="0", text="", token_ids=(1,))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", 7),
        (" (1+2) * 3 ", 9),
        ("10/4", Fraction(5, 2)),
        ("0.1+0.2", Fraction(3, 10)),
        ("-3--4", 1),
        ("2/3*3", 2),
        ("9" * 32 + "*" + "9" * 31, int("9" * 32) * int("9" * 31)),
    ],
)
def test_arithmetic(text: str, value):
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text", ["", "1/0", "2**9", "7//2", "1,2", "01", "one", "1e9", "1_0", "__import__('os')", "1+", "1 2", "(1", "()", "(1)(2)", "9" * 65]
)
def test_anything_else_has_no_value(text: str):
    assert evaluate(text) is None


def test_how_a_value_is_shown():
    assert [shown(Fraction(x)) for x in ("7", "-12", "5/2", "1/3")] == ["7", "-12", "2.5", "0.333333"]
    assert shown(Fraction(10**40)) == "1" + "0" * 40


def said(text: str, **keys) -> Turn:
    return build_part("environment", {"name": "calculator", **keys}, "environment").reset(PROMPT, 1).step(text)


def test_a_turn_that_ends_with_a_call_is_answered_and_any_other_ends_the_episode():
    assert said("so <calc>9+7</calc>") == Turn(text="16")
    assert said("<calc>1+1</calc> and <calc>2+2</calc>\n ") == Turn(text="4"), "the last one counts"
    assert said("<calc>nine</calc>") == Turn(text="error")
    for text in ("16", "", "<calc>9+7</calc> is it", "9+7</calc>", "<calc>9+7"):
        assert said(text) == Turn(done=True), text


def test_its_marks_are_keys():
    marks = {"opens": "", "closes": ":", "reply": "={}:", "error": "s"}
    assert (
        said("9+7:", **marks) == Turn(text="=16:") and said("9+7", **marks) == Turn(done=True) and said("9+:", **marks) == Turn(text="=s:")
    )


@pytest.mark.parametrize(("keys", "says"), [({"closes": " "}, "closes must have a text"), ({"reply": "x"}, "reply must contain {}")])
def test_a_mistake_in_its_keys(keys: dict, says: str):
    with pytest.raises(RecipeError, match=says):
        build_part("environment", {"name": "calculator", **keys}, "environment")
