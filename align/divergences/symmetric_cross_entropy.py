from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.divergences import StateFunctional


@dataclass(frozen=True)
class SymmetricCrossEntropy(StateFunctional):
    """Symmetric cross-entropy of a state with a teacher, the reference: `-forward sum ref log pi - reverse sum pi log ref`, nats.

    Wang et al. 1908.06112, whose labels are one-hot with log 0 := floor; with an `ema` reference the consistency loss of Robust Mean
    Teacher (Doebler et al. 2211.13081). It is `forward KL(ref||pi) + reverse KL(pi||ref)` plus the entropies `forward H(ref) + reverse
    H(pi)`, so its value is not 0 at the reference, and the second term sharpens the policy.
    """

    zero_at_reference = False

    forward: float = 1.0
    """Weight of the cross-entropy; alpha of the paper."""
    reverse: float = 1.0
    """Weight of the reverse cross-entropy; beta of the paper."""
    floor: float = -20.0
    """Least log ref, nats; A of the paper, which has -4 for one-hot labels."""

    def __post_init__(self):
        if self.forward <= 0 or self.reverse <= 0 or self.floor >= 0:
            raise ValueError("forward and reverse must be positive, floor negative")

    def of_state(self, logp: Float[Tensor, "*states V"], ref_logp: Float[Tensor, "*states V"]) -> Float[Tensor, "*states"]:
        own = torch.where(torch.isneginf(ref_logp), 0.0, ref_logp.exp() * logp)
        return -self.forward * own.sum(-1) - self.reverse * (logp.exp() * ref_logp.clamp_min(self.floor)).sum(-1)
