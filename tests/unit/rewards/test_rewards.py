"""Rewards on answers judged by hand, on arithmetic worked out otherwise, and on whatever a model may write."""

import math
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.config.nodes import build_part
from align.errors import RecipeError
from align.rewards.countdown_exact import CountdownExact
from align.rewards.countdown_loose import CountdownLoose
from align.rewards.countdown_wordy import CountdownWordy
from align.rewards.match import Match
from align.tasks._arithmetic import LONGEST, evaluate, without_echoes
from align.types import Prompt

REACH_14 = Prompt(id="p", text="3,5,7,9=14:", token_ids=(), fields={"skill": "countdown", "numbers": [3, 5, 7, 9], "target": 14})
TWICE_2 = Prompt(id="q", text="2,4,2,1=5:", token_ids=(), fields={"skill": "countdown", "numbers": [2, 4, 2, 1], "target": 5})
SORT = Prompt(id="s", text="s7,3,5,1,9:", token_ids=(), fields={"skill": "sort", "numbers": [7, 3, 5, 1, 9]})
NAMED = Prompt(id="m", text="2+2=", token_ids=(), fields={"answer": " four\n"})

JUDGED = [  # prompt, response, exact, loose
    (REACH_14, "9+7+3-5", 1, 1),
    (REACH_14, "7-5+3+9", 1, 1),
    (REACH_14, "9+7+3-5=14", 1, 1),
    (REACH_14, "9+7+3-5=14=14=14", 1, 1),
    (REACH_14, "9+7+3-5=14=1", 1, 1),  # the last echo cut by the length limit
    (REACH_14, "9+7+3-5=", 1, 1),
    (REACH_14, "9+7+3-5=13", 0, 0),  # not the target
    (REACH_14, "9+7+3-5=14=15", 0, 0),
    (REACH_14, "9+7+3-5=144", 0, 0),
    (REACH_14, "9+7+3-5==14", 0, 0),
    (REACH_14, "14", 0, 1),  # the hole
    (REACH_14, "14=14", 0, 1),
    (REACH_14, "2*7", 0, 1),
    (REACH_14, "9+5", 0, 1),  # numbers left out
    (REACH_14, "9+7+3-5+5-5", 0, 1),  # a number thrice
    (REACH_14, "9+7+3+5", 0, 0),  # 24
    (REACH_14, "5-3-7-9", 0, 0),  # -14
    (REACH_14, "59-7*3", 0, 0),
    (REACH_14, "35-7*3", 0, 1),  # 14 with two given numbers glued to one
    (REACH_14, "+9+7+3-5", 0, 0),
    (REACH_14, "09+7+3-5", 0, 0),
    (REACH_14, "9+7+3-5 ", 0, 0),
    (REACH_14, "9+7+3-5\n", 0, 0),
    (REACH_14, "9+7+3-", 0, 0),
    (REACH_14, "(9+7)+3-5", 0, 0),
    (REACH_14, "٩+7+3-5", 0, 0),  # a digit, but not one of 0-9
    (REACH_14, "=14", 0, 0),
    (REACH_14, "", 0, 0),
    (TWICE_2, "2+4-2+1", 1, 1),
    (TWICE_2, "4+1-2+2", 1, 1),
    (TWICE_2, "4+2-1", 0, 1),  # one of the two 2s
    (TWICE_2, "4*2-2-1", 0, 1),  # uses every number, but not with + and - alone
    (SORT, "1,3,5,7,9", 1, 1),
    (SORT, "1,3,5,9,7", 0, 0),
    (SORT, "1,3,5,7,9,", 0, 0),
    (SORT, "1,3,5,7", 0, 0),
    (SORT, "1,3,5,7,9=", 0, 0),
    (SORT, "", 0, 0),
]


@pytest.mark.parametrize(("prompt", "response", "exact", "loose"), JUDGED)
def test_judged_by_hand(prompt, response, exact, loose):
    assert CountdownExact().score(prompt, response) == exact
    assert CountdownLoose().score(prompt, response) == loose
    assert CountdownWordy().score(prompt, response) == {
        "total": pytest.approx(exact + 0.02 * len(response), abs=1e-12),
        "exact": exact,
        "length": len(response),
    }


def test_wordy_by_hand():
    assert CountdownWordy().score(REACH_14, "9+7+3-5=14")["total"] == pytest.approx(1.2, abs=1e-12)
    assert CountdownWordy(per_character=0.1).score(REACH_14, "9+9")["total"] == pytest.approx(0.3, abs=1e-12)


@pytest.mark.parametrize("rate", [0.0, -0.5])
def test_wordy_refuses_a_rate_that_is_not_positive(rate):
    with pytest.raises(RecipeError, match=r"reward: per_character must be positive"):
        build_part("reward", {"name": "countdown_wordy", "per_character": rate}, "reward")


@pytest.mark.parametrize(("response", "reward"), [("four", 1), ("\tfour  ", 1), ("Four", 0), ("four!", 0), ("f our", 0), ("", 0)])
def test_match_by_hand(response, reward):
    assert Match().score(NAMED, response) == reward


@pytest.mark.parametrize("name", ["countdown_exact", "countdown_loose", "countdown_wordy"])
def test_prompts_of_another_task_are_not_judged(name):
    with pytest.raises(ValueError, match="countdown"):
        build_part("reward", name, "reward").score(NAMED, "four")


def test_match_needs_an_answer():
    with pytest.raises(ValueError, match="prompt p has no answer to match"):
        Match().score(REACH_14, "14")


SUMS = st.lists(st.tuples(st.sampled_from("+-"), st.lists(st.integers(0, 99), min_size=1, max_size=3)), min_size=1, max_size=6)


@given(SUMS)
@settings(deadline=None)
def test_a_sum_of_products_has_the_value_it_was_built_with(terms):
    terms[0] = ("+", terms[0][1])
    text = "".join(sign + "*".join(map(str, factors)) for sign, factors in terms)[1:]
    value = sum(math.prod(factors) * (1 if sign == "+" else -1) for sign, factors in terms)
    assert evaluate(text) == (value if len(text) <= LONGEST else None)


@given(st.text(alphabet="0127+-*", max_size=12))
@settings(deadline=None, max_examples=500)
def test_exactly_the_well_formed_texts_have_a_value(text):
    pieces = re.split(r"[-+*]", text)
    if all(piece.isdigit() and str(int(piece)) == piece for piece in pieces):
        products = re.findall(r"([+-])([^+-]+)", "+" + text)
        assert evaluate(text) == sum(int(sign + "1") * math.prod(map(int, factors.split("*"))) for sign, factors in products)
    else:
        assert evaluate(text) is None


@given(st.integers(0, 36), st.integers(0, 30), st.text(alphabet="0123456789+-*", max_size=10))
@settings(deadline=None)
def test_echoes_fall_away_wherever_they_are_cut(target, kept, front):
    echoes = f"={target}" * 31
    assert without_echoes(front + echoes[:kept], target) == front
    changed = "7" if echoes[kept] != "7" else "8"
    if kept:
        assert without_echoes(front + echoes[:kept] + changed, target) is None


@given(st.one_of(st.text(max_size=60), st.text(alphabet="0123456789+-*=:,s", max_size=60)))
@settings(deadline=None, max_examples=500)
def test_no_text_makes_a_reward_raise(text):
    for prompt in (REACH_14, TWICE_2, SORT):
        exact, loose = CountdownExact().score(prompt, text), CountdownLoose().score(prompt, text)
        assert exact in (0.0, 1.0)
        assert loose in (0.0, 1.0)
        assert exact <= loose
        assert CountdownWordy().score(prompt, text)["exact"] == exact
    assert Match().score(NAMED, text) == (text.strip() == "four")


@pytest.mark.parametrize("unit", ["9", "9*", "9+", "0", "-", "=", "=14", "=1", "14=14", "1,", "\x00", "é", "\ud800", "9+7+3-5=14"])
def test_long_garbage_is_judged_in_linear_time(unit):
    text = unit * (10**6 // len(unit))
    for reward in (CountdownExact(), CountdownLoose(), CountdownWordy(), Match()):
        for prompt in (NAMED,) if isinstance(reward, Match) else (REACH_14, SORT):
            start = time.perf_counter()
            reward.score(prompt, text)
            # A million characters take a few milliseconds; anything quadratic takes hours.
            assert time.perf_counter() - start < 2
