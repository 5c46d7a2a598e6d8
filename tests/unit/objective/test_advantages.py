"""Advantages as parts: what each needs, and every one under every algorithm that has the axis. Their digits: golden/methods_table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.built import algorithm, part, single_turn

from align.advantages import charged, token_rewards
from align.config import recipes, registry
from align.errors import RecipeError
from align.types import RewardPenalty, TokenBatch

SINGLE = '''
class Global:
    """r - mean of the batch (REINFORCE++ 2501.03262): no group is compared."""

    def advantages(self, batch):
        return (batch.rewards - batch.rewards.mean())[batch.seq_ids]
'''


def node(algorithm: Any, samples: int = 2) -> dict[str, Any]:
    return {
        "steps": 2,
        "task": "countdown",
        "reward": "countdown_exact",
        "model": {"path": "nowhere"},
        "batch": {"prompts": 4, "samples": samples},
        "algorithm": algorithm,
    }


def batch() -> TokenBatch:
    """Two answers, of three tokens and two, one group."""
    return TokenBatch(
        input_ids=torch.zeros(2, 4, dtype=torch.int64),
        **single_turn(torch.ones(2, dtype=torch.int64), torch.tensor([3, 2])),
        group_ids=torch.zeros(2, dtype=torch.int64),
        rewards=torch.tensor([1.0, 0.0]),
        values=torch.tensor([0.5, 0.25, 0.0, 0.125, -0.5]),
        reward_penalties={
            "kl": RewardPenalty(discounted=torch.tensor([0.25, 0.5, 0.0, 1.0, 2.0]), direct=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
        },
    )


def test_one_sample_a_prompt_is_enough_for_an_advantage_without_a_group(tmp_path):
    (tmp_path / "mine.py").write_text(SINGLE)
    mine = f"{tmp_path}/mine.py:Global"
    assert recipes.build(node({"name": "grpo", "advantage": mine}, samples=1)).algorithm.least_samples == 1
    assert recipes.build(node({"name": "ppo", "advantage": mine}, samples=1)).algorithm.least_samples == 1
    assert recipes.build(node("ppo", samples=1)).algorithm.least_samples == 1
    with pytest.raises(RecipeError, match="compares at least 2 answers to a prompt") as refused:
        recipes.build(node("grpo", samples=1))
    assert refused.value.where == "batch.samples"


def test_values_need_a_critic():
    with pytest.raises(RecipeError, match="needs the values of a critic, and grpo trains none: use ppo") as refused:
        recipes.build(node({"name": "grpo", "advantage": "gae"}))
    assert refused.value.where == "algorithm.advantage"


@pytest.mark.parametrize("name", [*(n for n in registry.shipped("advantage") if not part("advantage", n).takes_charges), "gae"])
def test_a_critics_advantage_pays_what_is_taken_from_the_token_rewards(name: str):
    """PPO takes every advantage. The penalty of a token is its own part, and what the reward of it and of later tokens loses."""
    given = {"whiten": False, "lam": 1.0} if name == "gae" else {}
    b = batch()
    b = replace(b, reward_parts={"whole": b.rewards})
    ppo, plain = algorithm("ppo", advantage={"name": name, **given}), part("advantage", name, **given)
    taken = plain.advantages(replace(b, reward_penalties={})) - ppo.advantages(b)
    expected = torch.tensor([1.75, 2.5, 3.0, 7.0, 7.0])
    torch.testing.assert_close(taken, expected)
    torch.testing.assert_close(charged(b), expected)
    # The critic's target is the return after what is taken: 1 at the end of the first answer, 0 of the second.
    torch.testing.assert_close(ppo.targets(b), torch.tensor([0.25, 0.5, 1.0, -3.0, -2.0]))
    torch.testing.assert_close(token_rewards(b), torch.tensor([-0.25, -0.5, 1.0, -1.0, -2.0]))


@pytest.mark.parametrize("name", registry.shipped("surrogate"))
def test_ppo_takes_every_surrogate(name: str):
    assert recipes.build(node({"name": "ppo", "surrogate": name})).algorithm.surrogate.recipe_name == name
