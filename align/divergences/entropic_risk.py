from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.divergences import StateFunctional


@dataclass(frozen=True)
class EntropicRisk(StateFunctional):
    """Entropic risk of log ref/pi at a state, under ref: `(1/mu) log E_ref[(ref/pi)^mu]`, nats (Ra-DPO, Zhang et al. 2505.20359).

    Above KL(ref||pi), which it is as mu -> 0: outcomes that the policy has nearly given up weigh more. It is the Renyi divergence of
    order 1 + mu from the policy to the reference.
    """

    mu: float = 0.5
    """Risk aversion, per nat, above 0."""

    def __post_init__(self):
        if not 0 < self.mu <= 10:
            raise ValueError(f"mu must lie in (0, 10], not {self.mu:g}; for mu -> 0 say forward_kl")

    def of_state(self, logp: Float[Tensor, "*states V"], ref_logp: Float[Tensor, "*states V"]) -> Float[Tensor, "*states"]:
        z = torch.where(torch.isneginf(ref_logp), 0.0, ref_logp - logp)
        return torch.logsumexp(ref_logp + self.mu * z, -1) / self.mu
