from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.divergences import StateFunctional


@dataclass(frozen=True)
class Cvar(StateFunctional):
    """Conditional value at risk of log ref/pi at a state, under ref: its mean over the worst mu of the probability, nats.

    The risk measure of Ra-DPO (Zhang et al. 2505.20359): `min_t t + E_ref[(Z - t)_+]/mu`, Z = log ref/pi. mu = 1 is KL(ref||pi), the term
    of TDPO (2404.11999). Weighted exactly: outcomes by their probability under ref, the one at the boundary in part (the authors' code
    takes an unweighted quantile, without the 1/mu, and may split the vocabulary in two).
    """

    mu: float = 0.95
    """Share of the probability, (0, 1]."""

    def __post_init__(self):
        if not 0 < self.mu <= 1:
            raise ValueError(f"mu must lie in (0, 1], not {self.mu:g}")

    def of_state(self, logp: Float[Tensor, "*states V"], ref_logp: Float[Tensor, "*states V"]) -> Float[Tensor, "*states"]:
        possible = ~torch.isneginf(ref_logp)
        z = torch.where(possible, ref_logp - logp, 0.0)
        order = torch.where(possible, z.detach(), -torch.inf).argsort(-1, descending=True)
        mass = ref_logp.exp().gather(-1, order)
        before = mass.cumsum(-1) - mass
        weight = torch.minimum(mass, (self.mu - before).clamp_min(0)) / self.mu
        return (weight * z.gather(-1, order)).sum(-1)
