"""Weightings: their numbers, every key alive, and what every weighting must be: detached, >= 0, one number a token."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch

from align.types import TokenBatch
from align.weightings.difficulty import Difficulty
from align.weightings.uniform import Uniform

LENGTHS = [2, 1, 3, 1, 1, 2]
GROUPS = [0, 1, 0, 1, 0, 2]
REWARDS = [1.0, 0.0, 0.0, 0.0, 0.6, 1.0]
"""Group 0 has one of three rollouts solved (two at 0.5 or above), group 1 none, group 2 its only one."""
SIGNS = [1, 1, -1, -1, 1, 1]


def batch(rewards=REWARDS) -> TokenBatch:
    lengths = torch.tensor(LENGTHS)
    seq_ids = torch.repeat_interleave(torch.arange(len(LENGTHS)), lengths)
    return TokenBatch(
        input_ids=torch.zeros(len(LENGTHS), 5, dtype=torch.int64), prompt_lengths=torch.ones(len(LENGTHS), dtype=torch.int64),
        lengths=lengths, seq_ids=seq_ids, positions=torch.cat([torch.arange(n) for n in LENGTHS]), group_ids=torch.tensor(GROUPS),
        rewards=torch.tensor(rewards), advantages=torch.tensor(SIGNS, dtype=torch.float32)[seq_ids],
    )


def by_token(per_sequence: list[float]) -> torch.Tensor:
    return torch.tensor([w for w, n in zip(per_sequence, LENGTHS, strict=True) for _ in range(n)])


def test_uniform_is_one_everywhere():
    assert torch.equal(Uniform().weights(batch(), "kl"), torch.ones(sum(LENGTHS)))


def test_difficulty_by_hand():
    """1 of 3 solved: positive advantages of that group weigh 1 - exp(-e/3); no or all solved, or a negative advantage: 1."""
    eased = 1 - math.exp(-math.e / 3)
    torch.testing.assert_close(Difficulty().weights(batch(), "kl"), by_token([eased, 1, 1, 1, eased, 1]), rtol=1e-6, atol=0)


def test_solved_at_moves_the_line():
    eased = 1 - math.exp(-math.e * 2 / 3)
    torch.testing.assert_close(Difficulty(solved_at=0.5).weights(batch(), "kl"), by_token([eased, 1, 1, 1, eased, 1]), rtol=1e-6, atol=0)
    assert torch.equal(Difficulty(solved_at=2.0).weights(batch(), "kl"), torch.ones(sum(LENGTHS))), "nobody solved anything"


def test_sharpness_by_hand():
    eased = 1 - math.exp(-0.5 / 3)
    torch.testing.assert_close(Difficulty(sharpness=0.5).weights(batch(), "kl"), by_token([eased, 1, 1, 1, eased, 1]), rtol=1e-6, atol=0)


def test_the_tests_above_name_every_key():
    assert {f.name for f in fields(Difficulty)} == {"sharpness", "solved_at"}


def test_harder_prompts_are_held_back_less():
    weights = [Difficulty().weights(batch([float(i < solved) for i in range(6)]), "kl")[0].item() for solved in (1, 3)]
    assert weights[0] < weights[1] < 1


@pytest.mark.parametrize("weighting", [Uniform(), Difficulty(), Difficulty(sharpness=50.0), Difficulty(sharpness=1e-3)])
def test_weights_are_detached_and_not_negative(weighting):
    weights = weighting.weights(batch(), "kl")
    assert weights.shape == (sum(LENGTHS),) and weights.dtype == torch.float32
    assert (weights >= 0).all() and not weights.requires_grad


@pytest.mark.parametrize("sharpness", [0.0, -1.0])
def test_a_sharpness_without_meaning_is_refused(sharpness):
    with pytest.raises(ValueError, match="sharpness must be positive"):
        Difficulty(sharpness=sharpness)
