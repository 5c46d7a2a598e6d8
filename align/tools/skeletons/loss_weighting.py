"""A loss weighting: how much each example counts in the loss of the algorithm.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    algorithm: {name: sft, loss_weighting: "./skeleton.py:Skeleton"}
"""

import torch
from torch import Tensor

from align.loss_weightings import EXAMPLE_LOSS, LossWeighting


class Skeleton(LossWeighting):
    """Examples with a loss above the mean of the update count more."""

    more: float = 2.0

    def __post_init__(self):
        if self.more < 0:
            raise ValueError(f"more must be at least 0, not {self.more}")

    def formula(self) -> str:
        return f"{self.more:g} for the examples of an update with l above its mean, else 1"

    def symbols(self) -> dict[str, str]:
        return EXAMPLE_LOSS

    def of_losses(self, losses: Tensor) -> Tensor:
        """Float32 [S], at least 0, from the losses [S] of all examples of the update, detached."""
        return torch.where(losses > losses.mean(), self.more, 1.0)
