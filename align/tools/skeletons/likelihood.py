"""A likelihood: the loss of each token of a demonstration.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    algorithm: {name: sft, likelihood: "./skeleton.py:Skeleton"}
"""

from torch import Tensor

from align.contexts import TokenContext
from align.likelihoods import Likelihood


class Skeleton(Likelihood):
    """The negative log-likelihood, mixed with 1 - pi, which follows unlikely tokens less."""

    share: float = 0.5
    """Of 1 - pi, from 0 to 1."""

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be from 0 to 1, not {self.share}")

    def formula(self) -> str:
        """The maximised objective of a token."""
        return f"{1 - self.share:g} log π + {self.share:g} (π − 1)"

    def losses(self, ctx: TokenContext) -> Tensor:
        """Float32 [T], differentiable through `ctx.logp` [T], nats."""
        return -(1 - self.share) * ctx.logp + self.share * (1 - ctx.logp.exp())
