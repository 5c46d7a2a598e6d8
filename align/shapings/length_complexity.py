from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.core.segments import segment_sum
from align.shapings import Shaping
from align.types import Columns


@dataclass(frozen=True)
class LengthComplexity(Shaping):
    """STCR: wrong answers longer than the group's right ones are held against the policy more (Hong et al. 2506.21655, APO).

    With L the mean length of the group's solved rollouts, the advantage of an unsolved one of n > L tokens is multiplied by
    `1 + (1 - base^-(n - L))`, in (1, 2). Formula from the authors' code. Groups without a solved rollout, solved rollouts and
    advantages >= 0 (which the factor would reward for their length) stay as they are.
    """

    needs = frozenset({"rewards"})

    base: float = 1.00001
    """The excess tokens at which the factor is 1.5 are log 2/log base: 69315 by default."""
    solved_at: float = 1.0
    """A rollout counts as solved at this reward or above."""

    def __post_init__(self):
        if self.base <= 1:
            raise ValueError(f"base must be above 1, not {self.base}")

    def advantages(self, batch: Columns, advantages: Float[Tensor, "T"], name: str) -> Float[Tensor, "T"]:
        solved, lengths = (batch.rewards >= self.solved_at).double(), batch.lengths.double()
        groups = int(batch.group_ids.max()) + 1
        count = segment_sum(solved, batch.group_ids, groups)[batch.group_ids]
        total = segment_sum(solved * lengths, batch.group_ids, groups)[batch.group_ids]
        excess = (lengths - total / count.clamp_min(1)).clamp_min(0)
        # log in float64: in float32 1.00001 has lost two of its digits.
        grown = 1 - torch.exp(-excess * torch.tensor(self.base, dtype=torch.float64).log())
        factor = torch.where((count > 0) & (solved == 0), 1 + grown, 1.0).to(advantages.dtype)
        return torch.where(advantages < 0, factor[batch.seq_ids] * advantages, advantages)
