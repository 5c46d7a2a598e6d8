"""Process rewards: from what a reward returns to the token that is paid, and who learns from it how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import built
from helpers.models import tiny_model
from transformers import AutoTokenizer

from align.config import recipes
from align.config.schema import RewardLimits
from align.experience.packing import pack
from align.experience.process_rewards import at_tokens
from align.rewards import Answer, Reward, Stepwise, total
from align.types import Episode, Group, Prompt, Rewards
from align.workers.reward_runner import concatenate_rewards, run_rewards

PIECES = [b"ab", b"c", b"=", b"\xc3", b"\xa9", b" 12", b""]
"""Tokens of several characters, one character in two tokens, and an end token."""
END = 6


def decode(ids: Sequence[int]) -> str:
    return b"".join(PIECES[i] for i in ids).decode("utf-8", "replace")


def episode(*ids: int) -> Episode:
    return Episode.single_turn(np.array(ids, dtype=np.int32), decode(ids), np.zeros(len(ids), np.float32))


def group(*episodes: Episode) -> list[Group]:
    return [Group(prompt=Prompt(id="p", text="", token_ids=(1,)), episodes=episodes)]


@pytest.mark.parametrize(("character", "token"), [(0, 0), (1, 0), (2, 1), (3, 3), (4, 4), (5, 4), (6, 4)])
def test_a_step_is_paid_at_the_token_that_writes_its_character(character: int, token: int):
    answer = episode(0, 1, 3, 4, 5, END)
    assert answer.text == "abcé 12"
    assert np.flatnonzero(at_tokens(answer, [(character, 0.5)], decode)).tolist() == [token]


def test_the_last_token_writes_what_no_token_before_it_does():
    cut_in_a_character = episode(1, 3)
    assert at_tokens(cut_in_a_character, [(0, 1.0), (1, 2.0), (1, 0.25)], decode).tolist() == [1.0, 2.25]


class Returns(Reward):
    def __init__(self, *answers: Any):
        self.answers = list(answers)

    def score(self, prompt: Prompt, response: str) -> Answer:
        return self.answers.pop(0)


def judged(*answers: Any, **limits: Any) -> Rewards:
    """Of answers of three characters."""
    return run_rewards(Returns(*answers), RewardLimits(**limits), group(*(episode(0, 1) for _ in answers)))


def test_the_reward_of_an_answer_is_the_sum_of_its_steps_or_what_it_says():
    steps = ((0, 0.5), (2, -0.25))
    answers = (Stepwise(steps), Stepwise(steps, 1.0), Stepwise(steps, {"total": 2.0, "form": 1.0}), Stepwise(()), 3.0)
    rewards = judged(*answers)
    assert rewards.values.tolist() == [0.25, 1.0, 2.0, 0.0, 3.0] == [total(answer) for answer in answers]
    assert rewards.step_rewards == (steps, steps, steps, (), ())
    assert rewards.parts["form"][2] == 1.0 and rewards.failed == 0
    assert concatenate_rewards([rewards, rewards]).step_rewards == 2 * rewards.step_rewards


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([(3, 1.0)], "ends at character 3 of 3; count them from 0"),
        ([(-1, 1.0)], "ends at character -1 of 3"),
        ([(0.5, 1.0)], "ends at character 0.5 of 3"),
        ([(0, float("nan"))], "for a step, nan"),
        ([(0, "1")], "for a step, a str"),
        ([1], "TypeError"),
    ],
)
def test_what_is_no_step_costs_its_sample(steps: list, says: str):
    rewards = judged(Stepwise(steps), Stepwise([(0, 1.0)]))
    assert np.isnan(rewards.values[0]) and rewards.values[1] == 1.0 and rewards.failed == 1 and says in rewards.first_failure
    instead = judged(Stepwise(steps), on_failure="score", failure_score=-1.0)
    assert instead.values.tolist() == [-1.0] and instead.step_rewards == ((),)


def test_a_dropped_sample_takes_its_steps_along():
    groups = group(episode(0, 1, END), episode(1, END), episode(2, 0, 1))
    rewards = Rewards(values=np.array([np.nan, 1.0, 2.0], np.float32), step_rewards=(((0, 9.0),), ((0, 0.5),), ((2, 0.25), (3, 0.125))))
    batch = pack(groups, rewards, decode=decode)
    assert batch.step_rewards.tolist() == [0.5, 0, 0, 0.25, 0.125] and batch.rewards.tolist() == [1.0, 2.0]
    assert batch.select(torch.tensor([1])).step_rewards.tolist() == [0, 0.25, 0.125]
    assert pack(groups, replace(rewards, step_rewards=((), (), ())), decode=decode).step_rewards is None


def test_ppo_learns_each_step_where_it_stands_and_grpo_the_sum():
    """With lam 1 and values of 0 a token's advantage is what is paid from it on."""
    rewards = Rewards(values=np.array([1.0, 0.5], np.float32), step_rewards=(((1, 0.25), (3, 0.5)), ()))
    batch = replace(pack(group(episode(0, 1, 2, END), episode(1, END)), rewards, decode=decode), values=torch.zeros(6))
    ppo = built.algorithm("ppo", advantage={"lam": 1.0, "whiten": False})
    assert ppo.advantages(batch).tolist() == ppo.targets(batch).tolist() == [1.0, 0.75, 0.75, 0.25, 0.5, 0.5]
    assert built.algorithm("grpo", advantage="group_centred").advantages(batch).tolist() == [0.25] * 4 + [-0.25] * 2
    shaped = replace(batch, rewards=batch.rewards - 1.0)
    assert ppo.advantages(shaped).tolist() == [0.0, -0.25, -0.25, -0.75, -0.5, -0.5], "what a shaping takes is taken at the end"


REWARD = """
from align.rewards import Reward, Stepwise


class Digits(Reward):
    def score(self, prompt, response):
        steps = [(i, 1.0) for i, c in enumerate(response) if c.isdigit()]
        return Stepwise(steps, {"total": len(steps) - 0.1, "digits": float(len(steps))})
"""


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_run_pays_the_tokens(algorithm: str, tmp_path: Path, monkeypatch):
    (tmp_path / "digits.py").write_text(REWARD)
    loop, folder, seen = import_module("align.train"), tiny_model(tmp_path / "model"), []
    prepare = loop.prepare_batch
    monkeypatch.setattr(loop, "prepare_batch", lambda recipe, batch, *states: (seen.append(batch), prepare(recipe, batch, *states))[1])
    loop.train(
        recipes.build(
            {
                "steps": 1,
                "task": {"name": "countdown", "size": 8},
                "algorithm": algorithm,
                "reward": f"{tmp_path}/digits.py:Digits",
                "model": {"path": str(folder)},
                "batch": {"prompts": 4, "samples": 4},
                "sampling": {"max_tokens": 6},
                "workers": {"backend": "local"},
                "evaluation": {"every": -1},
            }
        ),
        tmp_path / "run",
    )
    (batch,) = seen
    digits = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(list("0123456789"))
    assert batch.step_rewards.tolist() == [float(t in digits) for t in batch.tokens.tolist()] and 0 < batch.step_rewards.mean() < 1
    torch.testing.assert_close(batch.rewards, torch.zeros(16).index_add(0, batch.seq_ids, batch.step_rewards) - 0.1)
