from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.advantages import Advantage
from align.core.segments import group_mean
from align.types import Columns


@dataclass(frozen=True)
class BatchStandardised(Advantage):
    """r - mean of its group, over the standard deviation of the whole batch's rewards (TRL `scale_rewards="batch"`)."""

    least_samples = 2

    eps: float = 1e-4
    """In units of reward; TRL's."""

    def __post_init__(self):
        if self.eps <= 0:
            raise ValueError(f"eps must be positive, not {self.eps}: in a batch of equal rewards the standard deviation is 0")

    def formula(self) -> str:
        return f"(r − mean of its group)/(std of the batch + {self.eps:g})"

    def advantages(self, batch: Columns) -> Float[Tensor, "T"]:
        rewards = batch.rewards
        variance = (rewards - rewards.mean()).square().sum() / max(len(rewards) - 1, 1)
        return ((rewards - group_mean(rewards, batch.group_ids)) / (variance.sqrt() + self.eps))[batch.seq_ids]
