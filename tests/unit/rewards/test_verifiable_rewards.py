"""Rewards of form, final answer and length, against values worked out by hand."""

import numpy as np
import pytest

from align.config.nodes import build_part
from align.errors import RecipeError
from align.rewards.exact_match import ExactMatch
from align.rewards.format import Format
from align.rewards.length import Length
from align.types import Episode, Group, Prompt


def prompt(**fields) -> Prompt:
    return Prompt(id="p", text="6*7=", token_ids=(1,), fields=fields)


THOUGHT = "<think>six sevens</think>\n<answer>42</answer>"


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        (THOUGHT, 1),
        ("hm " + THOUGHT + " so", 1),
        ("<answer>42</answer>", 0.5),
        ("<think>six</think> <answer>42", 0.5),
        ("<answer>42</answer><think>six</think>", 0.5),  # in the other order the second one does not count
        ("<think>a</think><think>b</think><answer>42</answer>", 0.5),
        ("</think><think><answer>42</answer>", 0.5),
        ("<think><answer>42</answer></think>", 0.5),  # inside another
        ("<think></think", 0),
        ("", 0),
    ],
)
def test_tags(response, reward):
    assert Format(tags=("think", "answer")).score(prompt(), response) == reward


def test_a_tag_that_the_prompt_has_opened():
    response = "six sevens</think><answer>42</answer>"
    assert Format(tags=("think", "answer"), prefix="<think>").score(prompt(), response) == 1
    assert Format(tags=("think", "answer")).score(prompt(), response) == 0.5


@pytest.mark.parametrize(("response", "reward"), [("A: 4\n2", 1), ("A: ", 0), ("so A: 4", 0), ("", 0)])
def test_a_pattern_matches_all_of_the_answer(response, reward):
    assert Format(pattern="A: .+").score(prompt(), response) == reward


@pytest.mark.parametrize(
    ("keys", "response", "total", "answered"),
    [
        ({}, "6*7 is 42.", 1, 1),
        ({}, "6*7 is 42.00 dollars", 1, 1),
        ({}, "42, not 43", 0, 1),
        ({}, "forty-two", 0, 0),
        ({"extract": "boxed"}, r"\boxed{42}", 1, 1),
        ({"extract": "boxed"}, "42", 0, 0),
        ({"extract": "hash_marks"}, "6*7\n#### $42", 1, 1),
        ({"extract": "whole"}, " 42\n", 1, 1),
        ({"extract": "whole"}, "42 ", 1, 1),
        ({"extract": "Answer: (.*)"}, "Answer: 41\nAnswer: 42", 1, 1),
        ({"extract": "(?s)<answer>(.*?)</answer>"}, "<answer>\n42\n</answer>", 1, 1),
        ({"extract": "whole", "numbers": False}, "42.0", 0, 1),
        ({}, "", 0, 0),
    ],
)
def test_the_final_answer(keys, response, total, answered):
    assert ExactMatch(**keys).score(prompt(answer="42"), response) == {"total": total, "answered": answered}


def test_a_number_in_a_row():
    assert ExactMatch(field="result").score(prompt(result=42), "42")["total"] == 1


def test_a_solution_as_in_gsm8k():
    row = prompt(answer="Each costs 1,000.\n#### 1,042")
    assert ExactMatch(expected="hash_marks").score(row, "so 1042")["total"] == 1
    assert ExactMatch(expected="hash_marks").score(row, "so 1000")["total"] == 0


def test_the_case_of_letters():
    keys = {"extract": "whole"}
    assert ExactMatch(**keys).score(prompt(answer="Paris"), "paris")["total"] == 0
    assert ExactMatch(**keys, ignore_case=True).score(prompt(answer="Paris"), "paris")["total"] == 1


@pytest.mark.parametrize("fields", [{}, {"answer": "no marks"}, {"answer": "#### "}])
def test_a_row_without_an_answer_raises(fields):
    with pytest.raises(ValueError, match="prompt p: no answer is found in its field answer"):
        ExactMatch(expected="hash_marks").score(prompt(**fields), "42")


@pytest.mark.parametrize(
    ("keys", "by_length"),
    [
        # DAPO's equation 13: 0 up to 6, (6 - n) / 4 up to 10, then -1.
        ({"maximum": 10, "buffer": 4}, {0: 0, 6: 0, 7: -0.25, 8: -0.5, 10: -1, 11: -1, 50: -1}),
        ({"maximum": 10}, {0: 0, 10: 0, 11: -1}),
        ({"maximum": 4, "buffer": 4}, {0: 0, 1: -0.25, 4: -1}),
        ({"target": 10, "buffer": 5}, {0: -1, 5: -1, 8: -0.4, 10: 0, 11: -0.2, 40: -1}),
    ],
)
def test_the_punishment_of_a_length(keys, by_length):
    for length, reward in by_length.items():
        assert Length(**keys, unit="characters").score(prompt(), "a" * length) == pytest.approx(reward, abs=1e-12)
        assert Length(**keys, unit="words").score(prompt(), "aa " * length) == pytest.approx(reward, abs=1e-12)
        episode = Episode.single_turn(np.ones(length, np.int32), "text")
        assert Length(**keys).score_groups([Group(prompt=prompt(), episodes=(episode,))]) == [pytest.approx(reward, abs=1e-12)]


def test_a_text_alone_has_no_tokens():
    with pytest.raises(ValueError, match="unit: characters or words"):
        Length(maximum=3).score(prompt(), "a")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "format"}, "exactly one of pattern and tags"),
        ({"name": "format", "pattern": "a", "tags": ["b"]}, "exactly one of pattern and tags"),
        ({"name": "format", "pattern": "("}, "no regular expression"),
        ({"name": "format", "tags": ["<think>"]}, "without brackets"),
        ({"name": "format", "tags": ["a", "a"]}, "different"),
        ({"name": "exact_match", "extract": "last"}, "extract: 'last' is none of"),
        ({"name": "exact_match", "expected": "("}, "expected: '\\(' is no regular expression"),
        ({"name": "length"}, "exactly one of maximum and target"),
        ({"name": "length", "maximum": 3, "target": 3}, "exactly one of maximum and target"),
        ({"name": "length", "maximum": 3, "buffer": 4}, "must not exceed"),
        ({"name": "length", "target": 3}, "buffer must be above 0"),
        ({"name": "length", "maximum": 3, "unit": "bytes"}, "unit must be"),
    ],
    ids=str,
)
def test_keys_that_mean_nothing_are_refused(node, message):
    with pytest.raises(RecipeError, match=f"reward: .*{message}"):
        build_part("reward", node, "reward")
