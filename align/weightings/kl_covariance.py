from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.types import Columns
from align.weightings import Weighting


@dataclass(frozen=True)
class KlCovariance(Weighting):
    """KL-Cov (Cui et al. 2505.22617; verl's `kl_cov`): only the tokens that lower the entropy most feel the penalty.

    A token's covariance is `(log pi_old - mean)(A - mean)` with the means over all tokens of the batch; the `ratio` largest (at
    least one) weigh 1, all others 0. verl takes the policy's log-prob in each micro-batch; this is the whole batch's, so that
    no split changes it. The published penalty is |log pi/pi_old| to the behaviour policy.
    """

    needs = frozenset({"old_logp", "advantages"})

    ratio: float = 2e-4
    """Of the batch's tokens."""

    def __post_init__(self):
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio must lie in (0, 1), not {self.ratio}")

    def weights(self, batch: Columns, name: str) -> Float[Tensor, "T"]:
        logp, advantages = batch.old_logp, batch.advantages
        covariance = (logp - logp.mean()) * (advantages - advantages.mean())
        largest = torch.argsort(covariance, descending=True, stable=True)[: max(1, int(self.ratio * len(covariance)))]
        return torch.zeros(len(covariance)).index_fill(0, largest, 1.0)
