"""A shaping: changes the rewards or the advantages of a batch.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    shapings: {mine: "./skeleton.py:Skeleton"}
"""

from torch import Tensor

from align.shapings import Shaping
from align.types import Columns


class Skeleton(Shaping):
    """A price on each token of an answer, taken from its reward."""

    needs = frozenset[str]()  # columns of the batch that it reads, such as "entropy"; see align.types.EARLY

    price: float = 0.01

    def rewards(self, batch: Columns, rewards: Tensor) -> Tensor:
        """Float32 [S], the rewards that advantages are computed from. Return a new tensor."""
        return rewards - self.price * batch.lengths

    def advantages(self, batch: Columns, advantages: Tensor, name: str) -> Tensor:
        """Float32 [T], the advantages of the policy term. Return a new tensor, or leave the method out."""
        return advantages

    def metrics(self, batch: Columns, name: str) -> dict[str, float]:
        """Logged as `shaping/NAME/KEY`."""
        return {"price": self.price * batch.lengths.float().mean().item()}
