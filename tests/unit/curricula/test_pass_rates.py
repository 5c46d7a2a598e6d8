"""What the run records of each prompt."""

from __future__ import annotations

import json

import numpy as np
import pytest

from align.run.pass_rates import PassRates
from align.types import Episode, Group, Prompt, Rewards

NAN = float("nan")
EPISODE = Episode.single_turn(np.array([5], dtype=np.int32), "")


def judged(**rewards: list[float]) -> tuple[list[Group], Rewards]:
    """A group for each prompt."""
    groups = [Group(prompt=Prompt(id=name, text="", token_ids=(3,)), episodes=(EPISODE,) * len(own)) for name, own in rewards.items()]
    return groups, Rewards(values=np.concatenate([*rewards.values()]).astype(np.float32))


def test_an_average_over_visits_by_hand():
    rates = PassRates(memory=0.75, correct=0.5)
    rates.record(0, 0, *judged(a=[1, 0.5, 0.4, 0], b=[0, 0]))
    rates.record(1, 1, *judged(a=[1, NAN, NAN, 1], c=[NAN, NAN]))
    passed, tried = rates.before(2, ["a", "b", "c"])
    assert tried.tolist() == [6, 2, 0] and passed[:2].tolist() == [0.75 * 0.5 + 0.25 * 1, 0.0] and np.isnan(passed[2])
    with pytest.raises(ValueError, match="read-only"):
        passed[0] = 1.0


def test_two_visits_in_a_step_count_one_after_the_other():
    groups, rewards = judged(a=[1, 1], b=[0, 0])
    rates = PassRates(memory=0.5, correct=1.0)
    rates.record(0, 0, [groups[0], Group(prompt=groups[0].prompt, episodes=groups[1].episodes)], rewards)
    assert [x.tolist() for x in rates.before(1, ["a"])] == [[0.5], [4]]


def test_answers_of_a_step_that_was_not_completed_do_not_count():
    rates = PassRates(memory=0.5, correct=1.0)
    rates.record(0, 0, *judged(a=[1]))
    assert rates.state_dict(0) == {} and rates.state_dict(1) == {"a": [1, 1.0]}
    rates.record(1, 0, *judged(a=[0]))  # no answer of step 0 was learned from, so no step is completed
    rates.record(2, 0, *judged(a=[0]))
    assert rates.state_dict(0) == {} and rates.state_dict(3) == {"a": [3, 0.25]}


def test_a_checkpoint_holds_the_rates_exactly():
    rates = PassRates(memory=0.3, correct=1.0)
    for step in range(4):
        rates.record(step, step, *judged(a=[1, 0, 0], b=[step, 1, 0]))
    again = PassRates(memory=0.3, correct=1.0)
    again.load_state_dict(4, json.loads(json.dumps(rates.state_dict(4))))
    for one, other in zip(rates.before(4, ["a", "b"]), again.before(4, ["a", "b"]), strict=True):
        assert one.tobytes() == other.tobytes()
