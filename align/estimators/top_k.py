from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from align.estimators import Estimator


@dataclass(frozen=True)
class TopK(Estimator):
    """The exact divergence between both distributions with all but k tokens merged into one outcome, at every visited state.

    At most the full divergence (data processing), and equal to it where k reaches the vocabulary; value and gradient are exact for
    the merged distributions. The k tokens are those the reference likes best: then what is merged is the same whatever the policy
    does, so nothing leaves the sum because the policy moved, and mass that goes to the rest is paid for as the rest's. What the
    policy does inside the rest is free. Of the [T, V] intermediate results of `exact` it keeps one.
    """

    weighted = True
    full_vocabulary = True

    k: int = 64
    """Tokens that stay by themselves."""

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}: with one outcome alone every divergence is 0")

    def outcomes(self, logp: Float[Tensor, "T V"], ref_logp: Float[Tensor, "T V"]) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]]:
        if self.k >= logp.shape[-1]:
            return logp, ref_logp
        kept = ref_logp.topk(self.k, dim=-1).indices
        return _merged(logp, kept), _merged(ref_logp, kept)


def _merged(logp: Float[Tensor, "T V"], kept: Int64[Tensor, "T k"]) -> Float[Tensor, "T k+1"]:
    """The log-probs of the kept tokens, and last that of all others."""
    # Summed, not 1 minus the kept: a small rest keeps its digits.
    rest = logp.scatter(-1, kept, -torch.inf)
    # Where nothing of the rest is possible its logarithm is -inf, and its gradient would be NaN.
    gone = torch.isneginf(rest).all(-1, keepdim=True)
    tail = torch.logsumexp(torch.where(gone, 0.0, rest), -1, keepdim=True)
    return torch.cat([logp.gather(-1, kept), torch.where(gone, -torch.inf, tail)], -1)
