"""What an environment gives for a turn is paid at the turn's last token, is part of the reward, and is no reward where something failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import built
from unit.environments.playing import EVERY, PROMPTS, playing, recipe

from align.config.schema import RewardLimits
from align.experience.packing import pack
from align.experience.signal import chosen
from align.rewards import Reward, Stepwise
from align.types import Group, Prompt, Rewards
from align.workers.reward_runner import concatenate_rewards, run_rewards

PAYING = {"name": EVERY, "pays": True}


class OfLength(Reward):
    """0.1 for each character of the last turn, and 1 for its first character, in parts or steps."""

    kind: str = "number"

    def score(self, prompt: Prompt, response: str):
        assert len(response) < 5, "of one turn alone"
        value = 0.125 * len(response)
        answers = {"number": value, "parts": {"total": value, "own": value}, "steps": Stepwise(steps=[(1, 0.25)], answer=value)}
        return answers[self.kind]


def score(groups: list[Group], kind: str = "number", limits: RewardLimits | None = None) -> Rewards:
    reward = OfLength()
    object.__setattr__(reward, "kind", kind)
    return run_rewards(reward, limits or RewardLimits(), groups)


@pytest.fixture(scope="module")
def groups(folder: Path) -> list[Group]:
    """Three turns of 2, 3 and 4 tokens; the last of prompt 1 is cut, and that of prompt 2 is the second, whose environment failed."""

    def says(p: Prompt, s: int) -> str:
        turn = p.id.count("/") and int(p.id[-1])
        return "123"[: turn + 1] + ("..." if p.id.startswith("1/") and turn == 2 else "")

    environment = {**PAYING, "fails": "raise", "which": "2"}
    return playing(folder, says, environment=environment).generate(PROMPTS[:3], 1, [1, 2, 3])


def decode(ids) -> str:
    return "".join("" if i == 2 else "0123456789+-*=:,sabcdef"[i - 3] for i in ids)


def test_the_reward_is_that_of_the_last_turn_and_what_the_turns_earned(groups: list[Group]):
    found = score(groups)
    assert found.values[:2].tolist() == [0.375 + 1.5, 0.375 + 0.75] and np.isnan(found.values[2])
    assert found.turn_rewards == ((0.25, 0.5, 0.75), (0.25, 0.5, 0.0), ()), "a turn that was cut has none"
    assert {name: part[:2].tolist() for name, part in found.parts.items()} == {"outcome": [0.375, 0.375], "environment": [1.5, 0.75]}
    assert found.failed == 1 and found.first_failure.startswith("prompt 2: its environment failed in turn 2: ValueError: no such move")
    parts = score(groups, "parts").parts
    assert {name: part[:2].tolist() for name, part in parts.items()} == {"own": [0.375, 0.375], "environment": [1.5, 0.75]}


def test_a_failure_is_no_reward_of_zero(groups: list[Group]):
    """Dropped, or the score that the user names, without what earlier turns earned."""
    batch = pack(groups, score(groups), decode=decode)
    assert len(batch.lengths) == 2
    named = score(groups, limits=RewardLimits(on_failure="score", failure_score=-1.0))
    assert named.values.tolist() == [1.875, 1.125, -1.0] and named.failed == 1
    assert pack(groups, named, decode=decode).step_rewards[-5:].tolist() == [0.0] * 5


def test_the_reward_is_not_asked_for_an_episode_that_failed(groups: list[Group]):
    asked = []

    class Watching(Reward):
        def score_groups(self, groups):
            asked.extend(e.text for g in groups for e in g.episodes)
            return [1.0] * sum(len(g.episodes) for g in groups)

        def score(self, prompt: Prompt, response: str) -> float:
            raise AssertionError

    found = run_rewards(Watching(), RewardLimits(), groups)
    assert asked == ["123", "123"] and found.values[:2].tolist() == [2.5, 1.75] and found.failed == 1


def test_each_is_paid_at_the_last_token_of_its_turn(groups: list[Group]):
    batch = pack(groups, score(groups), decode=decode)
    assert batch.lengths.tolist() == [9, 8]  # 2 + 3 + 4 tokens with the end tokens, and 3 without
    assert batch.step_rewards.tolist() == [0, 0.25, 0, 0, 0.5, 0, 0, 0, 0.75, 0, 0.25, 0, 0, 0.5, 0, 0, 0]
    steps = pack(groups, score(groups, "steps"), decode=decode).step_rewards
    assert steps.tolist() == [0, 0.25, 0, 0, 0.5, 0, 0.25, 0, 0.75, 0, 0.25, 0, 0, 0.5, 0, 0.25, 0], "steps count in the last turn"


def test_a_critics_advantage_reads_them_where_they_are_paid(groups: list[Group]):
    """With gamma and lambda 1 and no values, what a token is worth is all that is paid from it on."""
    batch = pack(groups, score(groups), decode=decode)
    batch = replace(batch, values=torch.zeros(len(batch.seq_ids)))
    found = built.part("advantage", "gae", gamma=1.0, lam=1.0, whiten=False).advantages(batch)
    assert found.tolist() == [1.875] * 2 + [1.625] * 3 + [1.125] * 4 + [1.125] * 2 + [0.875] * 3 + [0.375] * 3


def test_groups_that_are_chosen_and_shards_that_are_joined_keep_them(groups: list[Group]):
    whole = score(groups)
    kept, rewards = chosen(groups, whole, [False, True, True])
    assert [g.prompt.id for g in kept] == ["1", "2"] and rewards.turn_rewards == whole.turn_rewards[1:]
    joined = concatenate_rewards([score(groups[:1]), score(groups[1:])])
    assert joined.turn_rewards == whole.turn_rewards and joined.step_rewards == whole.step_rewards


def test_an_environment_that_pays_nothing_leaves_the_reward_alone(folder: Path):
    groups = playing(folder, lambda p, s: "12").generate(PROMPTS[:2], 1, [1, 2])
    found = score(groups)
    assert found.values.tolist() == [0.25, 0.25] and found.parts == {} and found.turn_rewards == ((), ())
    assert pack(groups, found, decode=decode).step_rewards is None


def test_a_reward_of_the_environment_alone(folder: Path):
    built = recipe(folder, environment=PAYING, reward="environment")
    groups = playing(folder, lambda p, s: "12", environment=PAYING).generate(PROMPTS[:1], 1, [1])
    assert run_rewards(built.reward, RewardLimits(), groups).values.tolist() == [1.5]
