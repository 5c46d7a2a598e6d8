import torch
from jaxtyping import Float
from torch import Tensor

from align.divergences import StateFunctional


class CauchySchwarz(StateFunctional):
    """Cauchy-Schwarz divergence of a state, `-log[(sum pi ref)^2/(sum pi^2 sum ref^2)]` (Zhang et al. 2509.21339).

    Symmetric, 0 where both agree alone, bounded by how far their supports overlap: finite where one side gives a token no probability.
    Twice the generalised form of the authors' code (metric.py) for two distributions.
    """

    def of_state(self, logp: Float[Tensor, "*states V"], ref_logp: Float[Tensor, "*states V"]) -> Float[Tensor, "*states"]:
        lse = torch.logsumexp
        return lse(2 * logp, -1) + lse(2 * ref_logp, -1) - 2 * lse(logp + ref_logp, -1)
