from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.core.segments import group_mean
from align.types import Columns
from align.weightings import Weighting


@dataclass(frozen=True)
class RewardGuided(Weighting):
    """KDRL's reward-guided masks (Xu et al. 2506.02208, section 3.4): a teacher is followed only where the reward was missed.

    Whether the published mean is over the kept tokens or over all is not known: as it stands it is over all;
    `{name: normalized, of: reward_guided}` is over the kept.
    """

    needs = frozenset({"rewards"})

    keep: str = "response"
    """`response`: answers that are not solved. `group`: all answers to prompts that none of its answers solves."""
    solved_at: float = 1.0
    """An answer counts as solved at this reward or above."""

    def __post_init__(self):
        if self.keep not in ("response", "group"):
            raise ValueError(f"keep must be response or group, not {self.keep!r}")

    def weights(self, batch: Columns, name: str) -> Float[Tensor, "T"]:
        solved = (batch.rewards >= self.solved_at).to(torch.float32)
        if self.keep == "group":
            solved = group_mean(solved, batch.group_ids)
        return (solved == 0).to(torch.float32)[batch.seq_ids]
