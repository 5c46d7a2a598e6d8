"""A weighting: how much a regularizer counts for each token.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    regularizers: {kl: {weighting: "./skeleton.py:Skeleton", coefficient: 0.1}}
"""

import torch
from torch import Tensor

from align.types import Columns
from align.weightings import Weighting


class Skeleton(Weighting):
    """The first tokens of an answer count more."""

    needs = frozenset[str]()  # columns of the batch that it reads, such as "advantages"; see align.types.EARLY

    first: int = 4
    """Tokens."""
    more: float = 2.0

    def __post_init__(self):
        if self.first < 1 or self.more < 0:
            raise ValueError("first must be at least 1, and more at least 0")

    def weights(self, batch: Columns, name: str) -> Tensor:
        """Float32 [T], at least 0. `batch.positions` [T] counts the tokens of an answer from 0."""
        return torch.where(batch.positions < self.first, self.more, 1.0)
