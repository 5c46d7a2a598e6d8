"""Metrics of held-out answers, against counting every draw."""

from itertools import combinations
from math import isnan

import numpy as np
import pytest

from align.config import recipes
from align.rewards.exact_match import ExactMatch
from align.run.answer_metrics import judged, ks, majority, means, of_answers, of_rewards, of_verdicts, pass_at_k
from align.types import Episode, Group, Prompt, Rewards


@pytest.mark.parametrize("answers", range(1, 8))
def test_pass_at_k_is_the_share_of_draws_with_a_correct_answer(answers):
    for correct in range(answers + 1):
        verdicts = [i < correct for i in range(answers)]
        for k in range(1, answers + 1):
            draws = [any(draw) for draw in combinations(verdicts, k)]
            assert pass_at_k(k, answers, correct) == pytest.approx(sum(draws) / len(draws), abs=1e-12)


def test_pass_at_k_needs_k_answers():
    assert isnan(pass_at_k(3, 2, 1))


def test_pass_at_k_of_many_answers_is_not_rounded_away():
    assert pass_at_k(1, 4096, 1) == pytest.approx(1 / 4096, rel=1e-9)


@pytest.mark.parametrize(("samples", "expected"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (6, [1, 2, 4, 6])])
def test_the_ks_of_so_many_answers(samples, expected):
    assert ks(samples) == expected


@pytest.mark.parametrize(
    ("finals", "correct", "value"),
    [
        (["4", "4", "5"], [1, 1, 0], 1),
        (["4", "5", "5"], [1, 0, 0], 0),
        (["4", "5"], [1, 0], 0.5),  # a tie
        (["4", None, None], [1, 0, 0], 1),  # no answer is no vote
        ([None], [0], 0),
        ([], [], 0),
        (["4", "4"], [1, 0], 0.5),  # the same final answer with two verdicts
    ],
)
def test_the_majority(finals, correct, value):
    assert majority(finals, [bool(c) for c in correct]) == value


def group(name: str, *texts: str, cut: int = 0) -> Group:
    """With 1, 2, ... tokens; the first `cut` answers are cut."""
    episodes = tuple(Episode.single_turn(np.ones(i + 1, np.int32), t, finished=i >= cut) for i, t in enumerate(texts))
    return Group(prompt=Prompt(id=name, text="", token_ids=(1,)), episodes=episodes)


NAN = float("nan")
GROUPS = [group("a", "= 4", "4", "so 5", "5.0", cut=1), group("b", "1", "1", "1", "1")]
REWARDS = Rewards(values=np.array([1, 1, 0, NAN, 0, 0, 1, 0], np.float32), parts={"x": np.array([2, 4, 6, NAN, 1, 1, 1, 1], np.float32)})


def test_values_of_problems_by_hand():
    final = ExactMatch().final_answer
    assert {k: v.tolist() for k, v in of_answers(GROUPS, final).items()} == {
        "length": [2.5, 2.5], "truncated": [0.25, 0], "distinct_answers": [0.5, 0.25],
    }  # fmt: skip
    assert {k: v.tolist() for k, v in of_rewards(GROUPS, REWARDS).items()} == {
        "reward": [pytest.approx(2 / 3), 0.25], "reward/x": [4, 1],
    }  # fmt: skip
    found = of_verdicts(GROUPS, REWARDS, 1.0, final)
    assert found.keys() == {"pass@1", "pass@2", "pass@4", "majority@4"}
    assert found["pass@1"].tolist() == [pytest.approx(2 / 3), 0.25] and found["pass@2"].tolist() == [1, 0.5]
    assert isnan(found["pass@4"][0]) and found["pass@4"][1] == 1  # one of the four failed
    assert found["majority@4"].tolist() == [1, 0.25]
    assert means({"pass@4": found["pass@4"], "none": np.array([NAN])}) == {"pass@4": 1}


def test_the_least_reward_of_a_correct_answer():
    values = Rewards(values=np.array([0.5, 0.4, 0, 0, 0, 0, 0, 0], np.float32))
    assert of_verdicts(GROUPS, values, 0.5, str)["pass@1"].tolist() == [0.25, 0]


def test_a_task_with_a_verdict_of_its_own_keeps_it():
    node = {"steps": 1, "task": "countdown", "algorithm": "grpo", "reward": "exact_match", "model": {"path": "x"}}
    recipe = recipes.build(node)
    assert "pass@1" in judged(recipe, "eval", GROUPS, REWARDS, {"eval/length": 1.0})
    assert not {"pass@1", "majority@4"} & judged(recipe, "eval", GROUPS, REWARDS, {"eval/pass@1": 1.0}).keys()
    silent = recipes.build(node | {"evaluation": {"correct": None}})
    assert not {"pass@1", "majority@4"} & judged(silent, "eval", GROUPS, REWARDS, {}).keys()
