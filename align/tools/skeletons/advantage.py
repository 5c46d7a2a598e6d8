"""An advantage: how much better than expected each token of a batch did.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    algorithm: {name: grpo, advantage: "./skeleton.py:Skeleton"}
"""

from torch import Tensor

from align.advantages import Advantage
from align.core.segments import group_mean
from align.types import Columns


class Skeleton(Advantage):
    """A multiple of the reward less the mean reward of the answers to the same prompt, in units of the reward."""

    needs = frozenset({"rewards"})  # columns of the batch that `advantages` reads

    least_samples = 2  # with one answer to a prompt it is 0

    scale: float = 1.0
    """Multiplies the difference."""

    def __post_init__(self):
        if self.scale <= 0:
            raise ValueError(f"scale must be positive, not {self.scale}")

    def formula(self) -> str:
        return f"{self.scale:g} (r − mean of its group)"

    def advantages(self, batch: Columns) -> Tensor:
        """Float32 [T], one number a token: rewards are [S], one number an answer, and `seq_ids` [T] is the answer of each token."""
        advantages = self.scale * (batch.rewards - group_mean(batch.rewards, batch.group_ids))
        return advantages[batch.seq_ids]
