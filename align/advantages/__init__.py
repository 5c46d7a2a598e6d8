"""Advantages: how much better than expected each token of a batch did, from the rewards. Detached, for the whole batch at once."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from align.config.formulas import Formulated
from align.core.returns import paid
from align.core.segments import suffix_sum
from align.types import Columns


class Advantage(Formulated, ABC):
    """The contract."""

    needs = frozenset({"rewards"})
    """What it reads of the batch, of `types.EARLY`. `values` is refused where the algorithm trains no critic."""
    stated = ("advantages",)
    least_samples: int = 1
    """Answers to a prompt without which it is 0: 2 where the baseline is the others of the group."""
    takes_charges: bool = False
    """Takes `batch.reward_penalties`, what reward-placed regularizers take from token rewards, into account itself."""

    @abstractmethod
    def advantages(self, batch: Columns) -> Float[Tensor, "T"]:
        """float32, detached. `batch.rewards` are the shaped ones; groups are whole."""

    def returns(self, batch: Columns) -> Float[Tensor, "T"]:
        """float32, what a critic is fitted to: the rewards of a token and of those after it, undiscounted, less
        `batch.reward_penalties`."""
        rewards = token_rewards(batch)
        return rewards + suffix_sum(rewards, batch.seq_ids, batch.positions)


def token_rewards(batch: Columns) -> Float[Tensor, "T"]:
    """The reward of each token: what is paid there, less what regularizers take from it."""
    return paid(batch.rewards, batch.step_rewards, batch.seq_ids) - sum(c.discounted for c in batch.reward_penalties.values())


def charged(batch: Columns) -> Float[Tensor, "T"]:
    """What reward-placed regularizers take from the advantage of each token: its own part, and the rewards from it on."""
    own = sum((c.direct for c in batch.reward_penalties.values()), torch.zeros(len(batch.seq_ids)))
    reward = sum((c.discounted for c in batch.reward_penalties.values()), torch.zeros(len(batch.seq_ids)))
    return own + reward + suffix_sum(reward, batch.seq_ids, batch.positions)
