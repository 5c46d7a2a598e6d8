"""An algorithm: a loss of each token, from a kind of data and the parts that it is made of.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    algorithm: "./skeleton.py:Skeleton"
"""

from typing import Any

from torch import Tensor

from align.algorithms import Algorithm
from align.config.nodes import part
from align.contexts import TokenContext
from align.core.segments import group_mean
from align.types import Columns


class Skeleton(Algorithm[TokenContext, Tensor]):
    """REINFORCE with the mean of the group as baseline, weighed by the ratio to the policy that drew the answer."""

    needs = frozenset({"rewards"})  # columns of the batch that `advantages` reads

    reduction: Any = part("reduction", "token")
    minibatches: int = 1

    def __post_init__(self):
        self.check()

    def formula(self) -> str:
        return "ρ A"

    def symbols(self) -> dict[str, str]:
        return {"ρ": "π/π_old of the token", "A": "r − mean of its group"}

    def advantages(self, batch: Columns) -> Tensor:
        """Float32 [T], from the rewards [S] of the whole batch."""
        return (batch.rewards - group_mean(batch.rewards, batch.group_ids))[batch.seq_ids]

    def loss(self, ctx: TokenContext, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each token, [T], to be minimised, and statistics that are averaged for the metrics."""
        ratio = ctx.log_rho.exp()
        return -ratio * advantages, {"ratio/mean": ratio.detach()}
