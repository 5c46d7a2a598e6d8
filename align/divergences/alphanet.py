import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.divergences import StateFunctional


@dataclass(frozen=True)
class Alphanet(StateFunctional):
    """AlphaNet's adaptive alpha-divergence from a teacher, the reference: at each state the larger of two alphas, ratios clipped.

    Wang et al. 2102.07954: `D_a = E_pi[(ref/pi)^a - 1]/(a (a - 1))`, a = 1 the limit KL(ref||pi), with (ref/pi)^a counted up to `clip`.
    The gradient is that of the authors' surrogate, `-sum pi clip((ref/pi)^a)/a grad log pi`, which is D_a's where nothing is clipped.
    Their code leaves a = 1 unclipped; here both are clipped. Where the clip cuts, the value may be negative.
    """

    low: float = -1.0
    """The alpha below 0."""
    high: float = 1.0
    """The alpha above 0."""
    clip: float = 5.0
    """Largest (ref/pi)^alpha."""

    def __post_init__(self):
        if not self.low < 0 < self.high or self.clip <= 1:
            raise ValueError("low must be below 0, high above 0, and clip above 1")

    def of_state(self, logp: Float[Tensor, "*states V"], ref_logp: Float[Tensor, "*states V"]) -> Float[Tensor, "*states"]:
        (low, low_loss), (high, high_loss) = (self._of(alpha, logp, ref_logp) for alpha in (self.low, self.high))
        value, loss = torch.maximum(low, high), torch.where(low > high, low_loss, high_loss)
        return value + loss - loss.detach()

    def _of(self, alpha: float, logp: Tensor, ref_logp: Tensor) -> tuple[Tensor, Tensor]:
        """Value without gradient, and the surrogate."""
        pi, log_ratio = logp.detach().exp(), torch.where(torch.isneginf(torch.maximum(logp, ref_logp)), 0.0, ref_logp - logp).detach()
        # pi ratio^alpha in one exponent: a ratio beyond the clip overflows.
        ratio = (alpha * log_ratio).clamp_max(math.log(self.clip)).exp()
        if alpha == 1:
            value = (pi * ratio * log_ratio.clamp_min(torch.finfo(logp.dtype).min)).sum(-1)
        else:
            value = (pi * (ratio - 1)).sum(-1) / (alpha * (alpha - 1))
        return value, -(pi * ratio / alpha * torch.where(pi > 0, logp, 0.0)).sum(-1)
