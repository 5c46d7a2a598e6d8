"""An estimator: how a divergence is measured at a sampled token, and with what gradient.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    regularizers: {kl: {estimator: "./skeleton.py:Skeleton", coefficient: 0.1}}
"""

from torch import Tensor

from align.divergences import Divergence
from align.estimators import Estimator


class Skeleton(Estimator):
    """The divergence's own value and gradient at the sampled token. Every method is elementwise in log_u = log pi - log ref, nats."""

    weighted = True  # by the ratio of the policy to the one that drew the sample

    def value(self, divergence: Divergence, log_u: Tensor) -> Tensor:
        """The estimate, which is logged and which an adaptive coefficient follows."""
        return divergence.khat(log_u)

    def grad_weight(self, divergence: Divergence, log_u: Tensor) -> Tensor:
        """The factor of grad log pi if the estimate is in the loss."""
        return divergence.grad_weight(log_u)

    def reward(self, divergence: Divergence, log_u: Tensor) -> Tensor:
        """The part that is subtracted from the token's reward if the estimate is in the reward."""
        return divergence.grad_weight(log_u)
