from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.core.segments import group_mean
from align.types import Columns
from align.weightings import Weighting


@dataclass(frozen=True)
class Difficulty(Weighting):
    """DADS: good answers to hard prompts are held back less (Hong et al. 2506.21655, APO; formula from the authors' code).

    With difficulty d = 1 - share of the group's rollouts that are solved: samples of positive advantage weigh
    `1 - exp(-sharpness * (1 - d))` where 0 < d < 1, all others 1.
    """

    needs = frozenset({"rewards", "advantages"})

    sharpness: float = 2.718281828459045
    solved_at: float = 1.0
    """A rollout counts as solved at this reward or above."""

    def __post_init__(self):
        if self.sharpness <= 0:
            raise ValueError(f"sharpness must be positive, not {self.sharpness}")

    def weights(self, batch: Columns, name: str) -> Float[Tensor, "T"]:
        solved = group_mean((batch.rewards >= self.solved_at).float(), batch.group_ids)
        eased = -torch.expm1(-self.sharpness * solved)
        mixed = (solved > 0) & (solved < 1)
        per_sequence = torch.where(mixed, eased, torch.ones_like(eased))
        return torch.where(batch.advantages > 0, per_sequence[batch.seq_ids], torch.ones(len(batch.seq_ids)))
