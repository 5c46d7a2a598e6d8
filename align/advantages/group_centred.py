from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.advantages import Advantage
from align.core.segments import group_mean
from align.types import Columns


@dataclass(frozen=True)
class GroupCentred(Advantage):
    """r - mean of its group (Dr. GRPO 2503.20783). The mean contains r itself: the gradient is (n - 1)/n of the policy gradient."""

    least_samples = 2

    def formula(self) -> str:
        return "r − mean of its group"

    def advantages(self, batch: Columns) -> Float[Tensor, "T"]:
        return (batch.rewards - group_mean(batch.rewards, batch.group_ids))[batch.seq_ids]
