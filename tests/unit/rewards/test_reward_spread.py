"""Rewards without a signal are told once, and not taken for a signal that is between prompts."""

import torch
from helpers.built import answers

from align.run.reward_spread import IN_A_ROW, RewardSpread

GROUPS = torch.tensor([0, 0, 1, 1])
EQUAL, BETWEEN, WITHIN = ([1.0] * 4, [0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0])


def notes(by_group: bool, *steps: list[float]) -> list[int]:
    """The steps after which something is told."""
    spread = RewardSpread(by_group)
    told = [spread.note(step, answers(torch.tensor(rewards), GROUPS)) for step, rewards in enumerate(steps)]
    assert all("no signal to learn from" in text for text in told if text)
    return [step for step, text in enumerate(told) if text]


def test_it_is_told_once_until_there_is_a_signal_again():
    assert IN_A_ROW == 3
    assert notes(True, *[EQUAL] * 7) == [2]
    assert notes(True, EQUAL, EQUAL, WITHIN, EQUAL, EQUAL, EQUAL, WITHIN, EQUAL, EQUAL, EQUAL) == [5, 9]
    assert notes(True, *[WITHIN] * 5) == []


def test_a_difference_between_prompts_is_a_signal_for_a_critic_alone():
    assert notes(True, *[BETWEEN] * 4) == [2]
    assert notes(False, *[BETWEEN] * 4) == []
    assert notes(False, *[EQUAL] * 4) == [2]


def test_a_group_that_lost_its_answers_does_not_count():
    spread, batch = RewardSpread(True), answers(torch.tensor([0.0, 1.0]), torch.tensor([2, 2]))
    assert [spread.note(step, batch) for step in range(5)] == [None] * 5
