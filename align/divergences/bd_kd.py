from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.divergences import StateFunctional


@dataclass(frozen=True)
class BdKd(StateFunctional):
    """BD-KD: `w_f KL(ref||pi) + w_r KL(pi||ref)` with a teacher as reference, weighed by which of the two is more certain.

    Amara et al. 2212.12965. The paper's exact weights could not be verified; this is a reading of it: where the policy has the lower
    entropy the forward KL weighs `favoured` and the reverse 1, where it has the higher one the reverse. The weights have no gradient.
    """

    favoured: float = 2.0
    """Weight of the KL that the entropies favour, above 1; the other weighs 1."""

    def __post_init__(self):
        if self.favoured <= 1:
            raise ValueError(f"favoured must be above 1, not {self.favoured:g}; for equal weights say jeffreys")

    def of_state(self, logp: Float[Tensor, "*states V"], ref_logp: Float[Tensor, "*states V"]) -> Float[Tensor, "*states"]:
        log_ratio = torch.where(torch.isneginf(torch.maximum(logp, ref_logp)), 0.0, ref_logp - logp)
        forward, reverse = (ref_logp.exp() * log_ratio).sum(-1), -(logp.exp() * log_ratio).sum(-1)
        certain = _entropy(logp.detach()) < _entropy(ref_logp)
        return torch.where(certain, self.favoured, 1.0) * forward + torch.where(certain, 1.0, self.favoured) * reverse


def _entropy(logp: Float[Tensor, "*states V"]) -> Float[Tensor, "*states"]:
    return -(logp.exp() * torch.where(torch.isneginf(logp), 0.0, logp)).sum(-1)
