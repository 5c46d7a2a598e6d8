"""Estimators: how a divergence is measured from what was sampled. Value and gradient are different things: each names both.

Published forms keep their published name and their published bias; `sampled` and `exact` have the gradient of the divergence.
"""

from __future__ import annotations

from torch import Tensor

from align.divergences import Divergence


class Estimator:
    """The contract: three elementwise functions of `log_u = log pi - log ref` (any shape, nats), all detached by the caller.

    As they stand they are the divergence's own: the value and the gradient it claims.
    """

    weighted = False
    """In the loss, multiplied by the importance ratio pi_theta/pi_old."""
    full_vocabulary = False
    """Sums over the vocabulary at each visited state instead of using the sampled token."""
    only_reverse_kl = False
    """A published estimate of KL(pi||ref): it has no meaning for another divergence."""

    def value(self, divergence: Divergence, log_u: Tensor) -> Tensor:
        """The estimate itself, on tokens drawn from the policy."""
        return divergence.value(log_u)

    def coefficient(self, divergence: Divergence, log_u: Tensor) -> Tensor:
        """What multiplies the score of the sampled token when the estimate is a loss."""
        return divergence.coefficient(log_u)

    def reward(self, divergence: Divergence, log_u: Tensor) -> Tensor:
        """What is subtracted from the token's own reward when the estimate is placed there."""
        return divergence.coefficient(log_u)
