from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.advantages import Advantage
from align.core.segments import group_mean, segment_sum
from align.types import Columns


@dataclass(frozen=True)
class LeaveOneOut(Advantage):
    """r - mean of the others of its group = n/(n - 1) (r - mean) (RLOO 2402.14740): the unbiased baseline. A group of one gets 0."""

    least_samples = 2

    def formula(self) -> str:
        return "r − mean of the others of its group"

    def advantages(self, batch: Columns) -> Float[Tensor, "T"]:
        rewards, ids = batch.rewards, batch.group_ids
        n = segment_sum(torch.ones_like(rewards), ids, int(ids.max()) + 1)[ids]
        return ((rewards - group_mean(rewards, ids)) * n / (n - 1).clamp_min(1))[batch.seq_ids]
