from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.advantages import Advantage
from align.core.segments import group_mean, segment_sum
from align.types import Columns


@dataclass(frozen=True)
class GroupStandardised(Advantage):
    """(r - mean)/(std + eps) over its group, std unbiased (GRPO 2402.03300). A group of one, or all equal, gets 0."""

    least_samples = 2

    eps: float = 1e-4
    """In units of reward; TRL's."""

    def __post_init__(self):
        if self.eps <= 0:
            raise ValueError(f"eps must be positive, not {self.eps}: in a group of equal rewards the standard deviation is 0")

    def formula(self) -> str:
        return f"(r − mean)/(std + {self.eps:g}) over its group"

    def advantages(self, batch: Columns) -> Float[Tensor, "T"]:
        rewards, ids = batch.rewards, batch.group_ids
        centred, groups = rewards - group_mean(rewards, ids), int(ids.max()) + 1
        n = segment_sum(torch.ones_like(rewards), ids, groups)
        variance = segment_sum(centred**2, ids, groups) / (n - 1).clamp_min(1)
        return (centred / (variance.sqrt()[ids] + self.eps))[batch.seq_ids]
